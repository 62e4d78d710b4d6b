package boltfile

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"sync"
)

// maxDepth bounds how deep a tree can be: each branch has two children or more.
const maxDepth = 48

// A Tree is a bucket in one state of the database.
type Tree struct {
	// Sequence is the bucket's counter.
	Sequence uint64

	file   *File
	pages  uint64 // how many pages the file has
	root   uint64
	inline []byte // the only page, in place of root
	tx     uint64 // the state whose checksums are used, 0 is none
	read   *[]uint64

	// Authentic is set by the caller, if it finds wrong values, and missing keys, by itself. Then a page that
	// lost its checksum is checked again: damage to one value costs only that.
	Authentic bool
}

// Tree returns the tree of buckets of a state.
func (f *File) Tree(root, pages uint64) *Tree { return &Tree{file: f, pages: pages, root: root} }

// TreeAfter is [File.Tree] for the state after tx. It checks no page again of which there is a
// checksum; see [File.Begin]. read, if not nil, gets the pages that are read.
func (f *File) TreeAfter(tx, root, pages uint64, read *[]uint64) *Tree {
	return &Tree{file: f, pages: pages, root: root, tx: tx, read: read}
}

// limits are what the branch above says about a page's keys. bbolt finds a child by its first key
// when it writes: if that is not the branch's, it makes a second child of it.
type limits struct {
	first []byte // nil at the root
	after []byte // the first key of the page after it; nil is none
}

// below returns the limits of a branch's i-th child.
func (l limits) below(p raw, i int) limits {
	l.first = p.key(i)
	if i+1 < int(p.count) {
		l.after = p.key(i + 1)
	}
	return l
}

func (t *Tree) page(s *scratch, id uint64, l limits, depth int) (raw, error) {
	if t.inline != nil {
		return rawPage(t.inline), nil
	}
	b, err := t.file.content(t, s, id)
	if err != nil {
		return raw{}, err
	}
	if t.read != nil {
		*t.read = append(*t.read, id)
	}
	p := rawPage(b)
	switch n := int(p.count); {
	case depth > maxDepth:
		return raw{}, &PageError{id, errors.New("it is too deep in its tree")}
	case n == 0 && depth > 0:
		return raw{}, &PageError{id, errors.New("it is empty")}
	case l.first != nil && !bytes.Equal(p.key(0), l.first), l.after != nil && bytes.Compare(p.key(n-1), l.after) >= 0:
		return raw{}, &PageError{id, errors.New("its keys belong elsewhere in the tree")}
	}
	return p, nil
}

// Get returns the value of key, nil if there is none.
func (t *Tree) Get(key []byte) ([]byte, error) {
	e, err := t.find(key, false)
	return e.Value, err
}

// GetWithSiblings is [Tree.Get], and also checks the pages with which bbolt may merge those that
// lead to key when it deletes.
func (t *Tree) GetWithSiblings(key []byte) ([]byte, error) {
	e, err := t.find(key, true)
	return e.Value, err
}

// A descent is the memory of one find.
type descent struct {
	pages [2]scratch // of a branch and of its child
	after []byte
}

var descents = sync.Pool{New: func() any { return new(descent) }}

func (t *Tree) find(key []byte, siblings bool) (Entry, error) {
	d := descents.Get().(*descent)
	defer descents.Put(d)
	id, l := t.root, limits{}
	for depth := 0; ; depth++ {
		p, err := t.page(&d.pages[depth%2], id, l, depth)
		if err != nil {
			return Entry{}, err
		}
		if p.leaf() {
			e := p.find(key)
			e.Key, e.Value = bytes.Clone(e.Key), bytes.Clone(e.Value)
			return e, nil
		}
		i := p.child(key)
		for _, sibling := range []int{i - 1, i + 1} {
			if siblings && sibling >= 0 && sibling < int(p.count) {
				if _, err := t.page(new(scratch), p.entry(sibling).Child, l.below(p, sibling), depth+1); err != nil {
					return Entry{}, err
				}
			}
		}
		id, l = p.entry(i).Child, l.below(p, i)
		if l.after != nil { // it may be of a page further up, whose memory is used next
			d.after = append(d.after[:0], l.after...)
			l.after = d.after
		}
	}
}

// Bucket returns a bucket, nil if there is none.
func (t *Tree) Bucket(name []byte) (*Tree, error) {
	e, err := t.find(name, false)
	if err != nil || e.Key == nil {
		return nil, err
	}
	return t.bucket(e)
}

// Buckets returns several buckets, nil for those that there are not. It reads the page of most
// databases once.
func (t *Tree) Buckets(names ...[]byte) ([]*Tree, error) {
	found := make([]*Tree, len(names))
	d := descents.Get().(*descent)
	defer descents.Put(d)
	p, err := t.page(&d.pages[0], t.root, limits{}, 0)
	if err != nil {
		return nil, err
	}
	for i, name := range names {
		if !p.leaf() {
			found[i], err = t.Bucket(name)
		} else if e := p.find(name); e.Key != nil {
			e.Value = bytes.Clone(e.Value) // an inline bucket is part of it
			found[i], err = t.bucket(e)
		}
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

// Tx is the transaction that left the state; see [File.TreeAfter].
func (t *Tree) Tx() uint64 { return t.tx }

func (t *Tree) bucket(e Entry) (*Tree, error) {
	if !e.Bucket || len(e.Value) < bucketSize {
		return nil, &PageError{t.root, fmt.Errorf("the bucket %q is malformed", e.Key)}
	}
	b := &Tree{Sequence: native.Uint64(e.Value[8:]), file: t.file, pages: t.pages, root: native.Uint64(e.Value), tx: t.tx, read: t.read}
	if b.root != 0 {
		return b, nil
	}
	b.inline = e.Value[bucketSize:]
	if err := checkInline(b.inline); err != nil {
		return nil, &PageError{t.root, fmt.Errorf("the bucket %q: %w", e.Key, err)}
	}
	return b, nil
}

// All yields the entries in order, beginning with the first key that is not less than from. In
// place of the entries below a damaged page it yields an error, and goes on.
func (t *Tree) All(from []byte) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) { t.walk(t.root, limits{}, 0, from, yield) }
}

func (t *Tree) walk(id uint64, l limits, depth int, from []byte, yield func(Entry, error) bool) bool {
	p, err := t.page(new(scratch), id, l, depth)
	if err != nil {
		return yield(Entry{}, err)
	}
	if p.leaf() {
		for i := range int(p.count) {
			if e := p.entry(i); bytes.Compare(e.Key, from) >= 0 && !yield(e, nil) {
				return false
			}
		}
		return true
	}
	for i := p.child(from); i < int(p.count); i++ {
		if !t.walk(p.entry(i).Child, l.below(p, i), depth+1, from, yield) {
			return false
		}
	}
	return true
}

// buckets yields the buckets of a page that belongs to a tree of buckets.
func (f *File) buckets(p *Page, pages uint64) iter.Seq2[string, *Tree] {
	return func(yield func(string, *Tree) bool) {
		t := f.Tree(p.ID, pages)
		for _, e := range p.Entries {
			if !e.Bucket {
				continue
			}
			if b, err := t.bucket(e); err == nil && !yield(string(e.Key), b) {
				return
			}
		}
	}
}

// Roots yields the trees of buckets in the file that have a bucket of the given name. Some
// of them are free pages.
func (f *File) Roots(fileSize int64, name string) iter.Seq[*Tree] {
	return func(yield func(*Tree) bool) {
		pages := uint64(fileSize / int64(f.pageSize))
		for p := range f.leaves(fileSize) {
			for bucket := range f.buckets(p, pages) {
				if bucket == name && !yield(f.Tree(p.ID, pages)) {
					return
				}
			}
		}
	}
}
