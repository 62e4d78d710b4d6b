package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/tink-crypto/tink-go/v2/tink"
)

// A frame is a header, an encrypted record, and a line feed, by which a frame whose end
// was never written can be told from a damaged one. The header is, big-endian,
//
//	magic, with the version of the format   4 bytes
//	sequence number                         8
//	length of the record                    4
//	CRC-32C of the record                   4
//	CRC-32C of the header so far            4
//
// The checksums tell a torn frame from one of another key, which a failed decryption
// alone does not. The record is bound to the file's name and the sequence number,
// which rises by one from frame to frame.
const (
	magic      = "TBJ1"
	sumOffset  = 20
	headerSize = 24

	// maxRecord bounds a record, encrypted. Token endpoints' answers are capped at 1 MiB.
	maxRecord = 16 << 20

	// maxOverhead bounds what a frame is longer than the id and data in it.
	maxOverhead = 128

	end     = '\n'
	endSize = 1
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrDamaged means that a file is not as it was written, other than by a crash in the
// middle of an append. It is left as it is.
var ErrDamaged = errors.New("a file of the journal is damaged")

var errUndecipherable = errors.New("the record does not decrypt")

// A kind is what a record says.
type kind byte

const (
	kindPut    kind = 1
	kindRemove kind = 2
	kindProbe  kind = 3 // nothing
)

// A frameContent is what a frame holds: the kind, the length of the id as a uvarint,
// the id, the data.
type frameContent struct {
	kind kind
	id   string
	data []byte
}

func encodeFrame(r frameContent, key tink.AEAD, name string, seq uint64) ([]byte, error) {
	plain := binary.AppendUvarint([]byte{byte(r.kind)}, uint64(len(r.id)))
	plain = append(plain, r.id...)
	plain = append(plain, r.data...)
	sealed, err := key.Encrypt(plain, associatedData(name, seq))
	if err != nil {
		return nil, fmt.Errorf("encrypting an entry of the journal: %w", err)
	}
	if len(sealed) > maxRecord {
		return nil, fmt.Errorf("an entry of %d bytes is too large for the journal", len(r.data))
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

func decodeRecord(plain []byte) (frameContent, error) {
	if len(plain) == 0 {
		return frameContent{}, ErrDamaged
	}
	length, n := binary.Uvarint(plain[1:])
	if n <= 0 || length > uint64(len(plain)-1-n) {
		return frameContent{}, ErrDamaged
	}
	rest := plain[1+n:]
	r := frameContent{kind: kind(plain[0]), id: string(rest[:length]), data: rest[length:]}
	switch r.kind {
	case kindPut, kindRemove, kindProbe:
		return r, nil
	default:
		return frameContent{}, ErrDamaged
	}
}

// contents are what frames add up to.
type contents struct {
	live map[string][]byte
	seq  uint64 // of the last frame
	size int    // of all of them
}

// readFrames reads the content of the file called name. Without error, what is beyond
// the size that it returns is a torn end. With [ErrDamaged] the contents are those of
// the frames before the damage, which is at that size. errUndecipherable means that
// the first frame was whole and yet could not be decrypted.
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
		r, err := decodeRecord(plain)
		if err != nil {
			return c, err
		}
		switch r.kind {
		case kindPut:
			c.live[r.id] = r.data
		case kindRemove:
			delete(c.live, r.id)
		}
		c.seq = seq
		c.size += frameSize(sealed)
	}
	return c, nil
}

// nextFrame returns the record of the frame that b begins with, nil if b is a torn
// end: the beginning of a frame, with or without zeros for what was never written.
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
	case length > maxRecord || length <= 0:
		return 0, nil, ErrDamaged
	case length+endSize > len(rest):
		return 0, nil, nil
	case rest[length] != end || crc32.Checksum(rest[:length], castagnoli) != binary.BigEndian.Uint32(header[16:]):
		return 0, nil, damagedUnlessZero(rest[length:])
	}
	return seq, rest[:length], nil
}

// damagedUnlessZero tells damage from blocks that a file got and that were not
// written before a crash.
func damagedUnlessZero(b []byte) error {
	for _, c := range b {
		if c != 0 {
			return ErrDamaged
		}
	}
	return nil
}
