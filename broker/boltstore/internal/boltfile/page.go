// Package boltfile reads bbolt's file format without trusting it. bbolt maps the file into
// memory and panics, recurses without end or reads elsewhere in memory if a page is damaged.
// This package checks each page that it reads, and returns an error that names the page.
//
// bbolt writes pages in the machine's byte order, each as a header, a table of elements, and
// the keys and values in the order of the table without gaps. Anything else is damage.
package boltfile

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"sort"
)

const (
	headerSize  = 16 // id uint64, flags uint16, count uint16, overflow uint32
	elementSize = 16
	// bucketSize is the length of a bucket's header in its parent: root uint64, sequence uint64.
	bucketSize = 16
	maxKeySize = 32768 // bbolt.MaxKeySize
)

// The kinds of pages.
const (
	kindBranch   = 0x01
	kindLeaf     = 0x02
	kindMeta     = 0x04
	kindFreelist = 0x10
)

const bucketFlag = 0x01

var native = binary.NativeEndian

// A PageError says what is wrong with one page.
type PageError struct {
	Page uint64
	Err  error
}

func (e *PageError) Error() string { return fmt.Sprintf("page %d: %s", e.Page, e.Err) }

// Unwrap returns what is wrong.
func (e *PageError) Unwrap() error { return e.Err }

// A Page is a branch or leaf of a tree.
type Page struct {
	ID       uint64
	Overflow uint32 // how many pages follow that belong to this one
	Leaf     bool
	Entries  []Entry // by ascending key
}

// An Entry is a key with its value in a leaf, or with the page below it in a branch.
type Entry struct {
	Key, Value []byte
	Child      uint64 // branch only
	Bucket     bool   // leaf only: the value is a bucket
}

type header struct {
	id       uint64
	kind     uint16
	count    uint16
	overflow uint32
}

func parseHeader(b []byte) header {
	return header{id: native.Uint64(b), kind: native.Uint16(b[8:]), count: native.Uint16(b[10:]), overflow: native.Uint32(b[12:])}
}

// tableSize is how many bytes header and elements take.
func (h header) tableSize() int { return headerSize + elementSize*int(h.count) }

// contentSize returns how many bytes the page has in use, by its table of elements, or an
// error if the table is malformed. It reads no more than the table.
func (h header) contentSize(table []byte) (int, error) {
	size := h.tableSize()
	for i := range int(h.count) {
		element := table[headerSize+elementSize*i:]
		pos, keySize, valueSize := native.Uint32(element), native.Uint32(element[4:]), uint32(0)
		if h.kind == kindLeaf {
			pos, keySize, valueSize = keySize, native.Uint32(element[8:]), native.Uint32(element[12:])
		}
		if int64(pos) != int64(size-headerSize-elementSize*i) || keySize == 0 || keySize > maxKeySize || valueSize > 1<<31-1 {
			return 0, fmt.Errorf("element %d is malformed", i)
		}
		size += int(keySize) + int(valueSize)
	}
	return size, nil
}

// entries returns the entries of a page whose contentSize was found to be within b. They
// share b's memory, and may take that of old.
func (h header) entries(old []Entry, b []byte) ([]Entry, error) {
	entries := h.parse(old, b)
	for i := range entries {
		if h.kind == kindLeaf && native.Uint32(b[headerSize+elementSize*i:])&^bucketFlag != 0 {
			return nil, fmt.Errorf("element %d is malformed", i)
		}
		if i > 0 && bytes.Compare(entries[i-1].Key, entries[i].Key) >= 0 {
			return nil, fmt.Errorf("element %d is out of order", i)
		}
	}
	return entries, nil
}

// parse is entries for a page that was checked.
func (h header) parse(old []Entry, b []byte) []Entry {
	entries := slices.Grow(old[:0], int(h.count))[:h.count]
	data := b[h.tableSize():]
	for i := range entries {
		element, e := b[headerSize+elementSize*i:], &entries[i]
		*e = Entry{}
		keySize, valueSize := native.Uint32(element[4:]), uint32(0)
		switch h.kind {
		case kindBranch:
			e.Child = native.Uint64(element[8:])
		case kindLeaf:
			e.Bucket = native.Uint32(element)&bucketFlag != 0
			keySize, valueSize = native.Uint32(element[8:]), native.Uint32(element[12:])
		}
		e.Key, data = data[:keySize:keySize], data[keySize:]
		e.Value, data = data[:valueSize:valueSize], data[valueSize:]
	}
	return entries
}

// A raw is a page that was checked, whose entries are not parsed.
type raw struct {
	header
	b []byte
}

func rawPage(b []byte) raw { return raw{parseHeader(b), b} }

func (r raw) leaf() bool { return r.kind == kindLeaf }

func (r raw) key(i int) []byte { return r.entry(i).Key }

func (r raw) entry(i int) (e Entry) {
	b := r.b[headerSize+elementSize*i:]
	pos, keySize := native.Uint32(b), native.Uint32(b[4:])
	if !r.leaf() {
		return Entry{Key: b[pos:][:keySize:keySize], Child: native.Uint64(b[8:])}
	}
	bucket := pos&bucketFlag != 0
	pos, keySize = keySize, native.Uint32(b[8:])
	end := keySize + native.Uint32(b[12:])
	return Entry{Key: b[pos:][:keySize:keySize], Value: b[pos:][keySize:end:end], Bucket: bucket}
}

// child returns the index of the child of a branch that has key.
func (r raw) child(key []byte) int {
	after := sort.Search(int(r.count), func(i int) bool { return bytes.Compare(r.key(i), key) > 0 })
	return max(after-1, 0)
}

// find returns the entry of a leaf, the zero Entry if there is none.
func (r raw) find(key []byte) Entry {
	i := sort.Search(int(r.count), func(i int) bool { return bytes.Compare(r.key(i), key) >= 0 })
	if i == int(r.count) || !bytes.Equal(r.key(i), key) {
		return Entry{}
	}
	return r.entry(i)
}

// checkInline checks the page inside the value of a small bucket, which has no id.
func checkInline(b []byte) error {
	if len(b) < headerSize {
		return fmt.Errorf("an inline bucket of %d bytes is too short", len(b))
	}
	h := parseHeader(b)
	if h.kind != kindLeaf || h.overflow != 0 || h.tableSize() > len(b) {
		return fmt.Errorf("an inline bucket is malformed")
	}
	size, err := h.contentSize(b)
	if err == nil && size > len(b) {
		err = fmt.Errorf("%d bytes are in use of %d", size, len(b))
	}
	if err == nil {
		_, err = h.entries(nil, b)
	}
	if err != nil {
		return fmt.Errorf("an inline bucket is malformed: %w", err)
	}
	return nil
}
