package exchange

import "sync"

// pieceSize is the size of the pieces, in bytes, that bodies are kept in.
const pieceSize = 16 << 10

// A piece is a part of a body.
type piece [pieceSize]byte

// pieces are reused, since nearly all of them are discarded without being read.
var pieces = sync.Pool{New: func() any { return new(piece) }}

// kept is the beginning of a body. The zero value is empty.
type kept struct {
	length int
	small  []byte   // all of it if that fits, otherwise its beginning
	pieces []*piece // what comes after small
}

// expect says how long the body will be, which is negative if that is not known.
func (k *kept) expect(length int64) {
	if length > 0 && length <= pieceSize/4 { // a piece would be mostly empty
		k.small = make([]byte, 0, length)
	}
}

// add appends content.
func (k *kept) add(content []byte) {
	n := min(len(content), cap(k.small)-len(k.small))
	k.small = append(k.small, content[:n]...)
	k.length += n
	for content = content[n:]; len(content) > 0; content = content[n:] {
		number, at := k.place(k.length)
		if number == len(k.pieces) {
			k.pieces = append(k.pieces, pieces.Get().(*piece))
		}
		n = copy(k.pieces[number][at:], content)
		k.length += n
	}
}

// place returns where the byte at offset is, which must not be in small.
func (k *kept) place(offset int) (number, at int) {
	offset -= len(k.small)
	return offset / pieceSize, offset % pieceSize
}

// copyTo copies what is kept from offset on, and returns how much that is: less than all of it
// where to is short or a piece ends.
func (k *kept) copyTo(to []byte, offset int) int {
	to = to[:min(len(to), k.length-offset)]
	if offset < len(k.small) {
		return copy(to, k.small[offset:])
	}
	number, at := k.place(offset)
	return copy(to, k.pieces[number][at:])
}

// discard empties it, and leaves the pieces to others.
func (k *kept) discard() {
	for _, p := range k.pieces {
		pieces.Put(p)
	}
	*k = kept{}
}
