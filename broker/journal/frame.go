package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/tink-crypto/tink-go/v2/tink"
)

// A frame is a header, a ciphertext, and a line feed, which distinguishes a frame whose end
// was never written from a damaged one. The ciphertext is an encrypted [operation]. The
// header is, big-endian,
//
//	magic, with the version of the format   4 bytes
//	sequence number                         8
//	length of the ciphertext                4
//	CRC-32C of the ciphertext               4
//	CRC-32C of the header so far            4
//
// The checksums distinguish a torn frame from one under another key; failed decryption alone
// does not. The ciphertext is bound to the file's name and the sequence number, which grows
// by one from frame to frame.
const (
	magic      = "TBJ1"
	sumOffset  = 20
	headerSize = 24

	// maxCiphertext bounds a ciphertext, in bytes. Token responses are capped at 1 MiB.
	maxCiphertext = 16 << 20

	// maxOverhead bounds the size of a frame beyond the id and data in it, in bytes.
	maxOverhead = 128

	end     = '\n'
	endSize = 1
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrDamaged means that a file is damaged in a way that a crash during an append does not
// explain. The file is left as it is.
var ErrDamaged = errors.New("a file of the journal is damaged")

var errUndecipherable = errors.New("the first entry does not decrypt")

// A kind is the kind of an operation.
type kind byte

const (
	kindPut    kind = 1
	kindRemove kind = 2
	kindProbe  kind = 3 // has no effect
)

// An operation changes the entries of a file. It is encoded as the kind, the length of the
// id as a uvarint, the id, and the data.
type operation struct {
	kind kind
	id   string
	data []byte
}

func encodeFrame(op operation, key tink.AEAD, name string, seq uint64) ([]byte, error) {
	plain := make([]byte, 0, 1+binary.MaxVarintLen64+len(op.id)+len(op.data))
	plain = binary.AppendUvarint(append(plain, byte(op.kind)), uint64(len(op.id)))
	plain = append(plain, op.id...)
	plain = append(plain, op.data...)
	sealed, err := key.Encrypt(plain, associatedData(name, seq))
	if err != nil {
		return nil, fmt.Errorf("encrypting an entry of the journal: %w", err)
	}
	if len(sealed) > maxCiphertext {
		return nil, fmt.Errorf("an entry of %d bytes is too large for the journal", len(op.data))
	}
	return frame(seq, sealed), nil
}

func frame(seq uint64, sealed []byte) []byte {
	b := make([]byte, 0, frameSize(sealed))
	b = append(b, magic...)
	b = binary.BigEndian.AppendUint64(b, seq)
	b = binary.BigEndian.AppendUint32(b, uint32(len(sealed)))
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(sealed, castagnoli))
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	return append(append(b, sealed...), end)
}

func frameSize(sealed []byte) int { return headerSize + len(sealed) + endSize }

func associatedData(name string, seq uint64) []byte {
	b := append([]byte("token-broker/journal/entry\x00"), name...)
	return binary.BigEndian.AppendUint64(append(b, 0), seq)
}

func decodeOperation(plain []byte) (operation, error) {
	if len(plain) == 0 {
		return operation{}, ErrDamaged
	}
	length, n := binary.Uvarint(plain[1:])
	if n <= 0 || length > uint64(len(plain)-1-n) {
		return operation{}, ErrDamaged
	}
	rest := plain[1+n:]
	op := operation{kind: kind(plain[0]), id: string(rest[:length]), data: rest[length:]}
	switch op.kind {
	case kindPut, kindRemove, kindProbe:
		return op, nil
	default:
		return operation{}, ErrDamaged
	}
}

// contents is the state of a file after all its frames.
type contents struct {
	live map[string][]byte
	seq  uint64 // of the last frame
	size int    // of all frames, in bytes
}

// readFrames reads the frames in b, the content of the file called name. Any bytes beyond
// the returned size are a torn end. With [ErrDamaged] the contents are those of the frames
// before the damage, which begins at that size. errUndecipherable means that the first frame
// is complete and does not decrypt.
func readFrames(b []byte, key tink.AEAD, name string) (contents, error) {
	c := contents{live: make(map[string][]byte)}
	for c.size < len(b) {
		seq, sealed, err := nextFrame(b[c.size:])
		if err != nil {
			return c, err
		}
		if sealed == nil {
			return c, nil
		}
		if c.size > 0 && seq != c.seq+1 {
			return c, ErrDamaged
		}
		plain, err := key.Decrypt(sealed, associatedData(name, seq))
		if err != nil && c.size == 0 {
			return c, errUndecipherable
		}
		if err != nil {
			return c, ErrDamaged
		}
		op, err := decodeOperation(plain)
		if err != nil {
			return c, err
		}
		switch op.kind {
		case kindPut:
			c.live[op.id] = op.data
		case kindRemove:
			delete(c.live, op.id)
		}
		c.seq = seq
		c.size += frameSize(sealed)
	}
	return c, nil
}

// nextFrame returns the ciphertext of the frame at the beginning of b, nil if b is a torn
// end: an incomplete frame, possibly followed by zeros for blocks that were never written.
func nextFrame(b []byte) (seq uint64, sealed []byte, err error) {
	if len(b) < headerSize {
		return 0, nil, nil
	}
	header := b[:headerSize]
	if string(header[:len(magic)]) != magic || crc32.Checksum(header[:sumOffset], castagnoli) != binary.BigEndian.Uint32(header[sumOffset:]) {
		return 0, nil, damagedUnlessZero(b[headerSize:])
	}
	seq = binary.BigEndian.Uint64(header[4:])
	length := int(binary.BigEndian.Uint32(header[12:]))
	rest := b[headerSize:]
	switch {
	case length > maxCiphertext || length <= 0:
		return 0, nil, ErrDamaged
	case length+endSize > len(rest):
		return 0, nil, nil
	case rest[length] != end || crc32.Checksum(rest[:length], castagnoli) != binary.BigEndian.Uint32(header[16:]):
		return 0, nil, damagedUnlessZero(rest[length:])
	}
	return seq, rest[:length], nil
}

// damagedUnlessZero returns nil if b is all zeros: blocks that were allocated and not
// written before a crash.
func damagedUnlessZero(b []byte) error {
	for _, c := range b {
		if c != 0 {
			return ErrDamaged
		}
	}
	return nil
}
