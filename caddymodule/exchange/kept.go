package exchange

import "sync"

// pieceSize is the size of the pieces, in bytes, that bodies are kept in.
const pieceSize = 4 << 10

// A piece is a part of a body.
type piece [pieceSize]byte

// pieces are reused, since nearly all of them are discarded without being read.
var pieces = sync.Pool{New: func() any { return new(piece) }}

// kept is the beginning of a body, at most maxReplayBody bytes. The zero value is empty.
type kept struct {
	length int
	pieces [maxReplayBody / pieceSize]*piece // those that length needs
}

// add appends content.
func (k *kept) add(content []byte) {
	for len(content) > 0 {
		p := &k.pieces[k.length/pieceSize]
		if *p == nil {
			*p = pieces.Get().(*piece)
		}
		n := copy((*p)[k.length%pieceSize:], content)
		k.length += n
		content = content[n:]
	}
}

// copyTo copies what is kept from offset on, and returns how much that is: less than all of it
// where to is short or a piece ends.
func (k *kept) copyTo(to []byte, offset int) int {
	to = to[:min(len(to), k.length-offset)]
	return copy(to, k.pieces[offset/pieceSize][offset%pieceSize:])
}

// discard empties it, and leaves the pieces to others.
func (k *kept) discard() {
	for _, p := range k.pieces {
		if p != nil {
			pieces.Put(p)
		}
	}
	*k = kept{}
}
