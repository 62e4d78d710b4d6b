package exchange

import (
	"errors"
	"io"
	"sync"
)

// The sizes, in bytes, of the buffers that bodies are copied through. A reader that cannot wait
// without a buffer holds one for as long as nothing comes.
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
	for isMany := length > smallBuffer; ; {
		if length < 0 {
			// The body of a chunked or HTTP/2 response waits here for its next piece, without a buffer.
			// Other readers return at once.
			if _, err := from.Read(nil); err != nil {
				return unlessEnd(err)
			}
		}
		n, ended, err := copySome(from, isMany, length >= 0, write)
		if ended || err != nil {
			return err
		}
		isMany = n >= smallBuffer
	}
}

// copySome copies what one read returns, n bytes, or all until from ends.
func copySome(from io.Reader, isMany, isAll bool, write func([]byte) error) (n int, ended bool, err error) {
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
		n, err = from.Read(buffer)
		if n > 0 {
			if err := write(buffer[:n]); err != nil {
				return n, false, err
			}
		}
		if err != nil || !isAll {
			return n, err != nil, unlessEnd(err)
		}
	}
}

// unlessEnd returns an error of a reader, except the one at its end.
func unlessEnd(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
