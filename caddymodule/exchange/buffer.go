package exchange

import (
	"errors"
	"io"
	"sync"
)

// The sizes, in bytes, of the buffers that bodies are copied through. A connection holds one
// while it waits for the next piece, and most that are open for long wait nearly all the time.
const (
	smallBuffer = 4 << 10
	largeBuffer = 64 << 10
)

var (
	small = sync.Pool{New: func() any { return new([smallBuffer]byte) }}
	large = sync.Pool{New: func() any { return new([largeBuffer]byte) }}
)

// Copy calls write with each piece that from returns, until from ends. length is how many bytes
// come, -1 if that is not known: then large pieces are read only while many come. Each piece is
// written before the next is read.
func Copy(from io.Reader, length int64, write func([]byte) error) error {
	for isMany := length > smallBuffer; ; isMany = !isMany {
		if ended, err := copySome(from, isMany, length >= 0, write); ended || err != nil {
			return err
		}
	}
}

// copySome copies until from ends or, if it is not steady, fewer or more bytes come at a time.
func copySome(from io.Reader, isMany, isSteady bool, write func([]byte) error) (ended bool, err error) {
	var buffer []byte
	if isMany {
		b := large.Get().(*[largeBuffer]byte)
		defer large.Put(b)
		buffer = b[:]
	} else {
		b := small.Get().(*[smallBuffer]byte)
		defer small.Put(b)
		buffer = b[:]
	}
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			if err := write(buffer[:n]); err != nil {
				return false, err
			}
		}
		if errors.Is(err, io.EOF) {
			return true, nil
		}
		if err != nil {
			return false, err
		}
		if isMore := n >= smallBuffer; !isSteady && isMore != isMany {
			return false, nil
		}
	}
}
