package boltfile

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"iter"
)

const (
	magic       = 0xED0CDAED
	version     = 2
	metaSize    = 64
	minPageSize = 1 << 10
	maxPageSize = 1 << 24
	// none is the freelist's page in a file that does not store it.
	none = 1<<64 - 1
)

// A File is a bbolt database that is read page by page.
type File struct {
	r        io.ReaderAt
	pageSize int
	cache    cache
}

// A Meta is a state of the database, which a transaction left. The first two pages of the
// file hold the last two states.
type Meta struct {
	PageSize int
	Root     uint64 // page of the tree of buckets
	Freelist uint64 // page of the list of free pages
	Pages    uint64 // how many pages the file has
	Tx       uint64 // number of the transaction
}

// Open finds out the page size. An error means that neither copy of the header can be read; the
// File can then still be scanned.
func Open(r io.ReaderAt) (*File, error) {
	first, err := readMeta(r, 0)
	if err == nil {
		return &File{r: r, pageSize: first.PageSize}, nil
	}
	for size := minPageSize; size <= maxPageSize; size <<= 1 {
		if second, err := readMeta(r, int64(size)); err == nil && second.PageSize == size {
			return &File{r: r, pageSize: size}, nil
		}
	}
	return &File{r: r, pageSize: 4096}, fmt.Errorf("both copies of the header, pages 0 and 1, cannot be read: %w", err)
}

// readMeta reads the state at an offset in the file.
func readMeta(r io.ReaderAt, offset int64) (Meta, error) {
	var b [headerSize + metaSize]byte
	if _, err := r.ReadAt(b[:], offset); err != nil {
		return Meta{}, readError(err)
	}
	return parseMeta(b[headerSize:])
}

// parseMeta leaves the page's own header aside, as bbolt does.
func parseMeta(b []byte) (Meta, error) {
	if native.Uint32(b) != magic || native.Uint32(b[4:]) != version {
		return Meta{}, errors.New("it is not the header of a bbolt database")
	}
	sum := fnv.New64a()
	_, _ = sum.Write(b[:56])
	m := Meta{
		PageSize: int(native.Uint32(b[8:])), Root: native.Uint64(b[16:]), Freelist: native.Uint64(b[32:]),
		Pages: native.Uint64(b[40:]), Tx: native.Uint64(b[48:]),
	}
	size := m.PageSize
	if native.Uint64(b[56:]) != sum.Sum64() || size < minPageSize || size > maxPageSize || size&(size-1) != 0 {
		return Meta{}, errors.New("its checksum is wrong")
	}
	return m, nil
}

// PageSize returns the size of a page in bytes.
func (f *File) PageSize() int { return f.pageSize }

// Metas returns the newest state that can be read, and what is wrong with its two copies. err is
// set if there is none.
func (f *File) Metas() (newest Meta, damaged []error, err error) {
	var metas []Meta
	for id := range uint64(2) {
		m, err := readMeta(f.r, f.offset(id))
		if err == nil && m.PageSize != f.pageSize {
			err = errors.New("its page size is another")
		}
		if err != nil {
			damaged = append(damaged, &PageError{id, fmt.Errorf("this copy of the header cannot be read: %w", err)})
			continue
		}
		metas = append(metas, m)
		if m.Tx >= newest.Tx {
			newest = m
		}
	}
	switch len(metas) {
	case 0:
		return Meta{}, damaged, errors.Join(damaged...)
	case 2:
		// Each transaction replaces the older copy, and its number is the next one.
		if metas[0].Tx != metas[1].Tx+1 && metas[1].Tx != metas[0].Tx+1 {
			damaged = append(damaged, &PageError{0, errors.New("the copies of the header, pages 0 and 1, do not follow each other")})
		}
	}
	return newest, damaged, nil
}

// Has reports whether the header has the state after tx. It reads one copy.
func (f *File) Has(tx uint64) bool {
	m, err := readMeta(f.r, f.offset(tx%2))
	return err == nil && m.Tx == tx && m.PageSize == f.pageSize
}

// Header returns the bytes of a page's header.
func (f *File) Header(id uint64) (b [headerSize]byte, err error) {
	if _, err := f.r.ReadAt(b[:], f.offset(id)); err != nil {
		return b, &PageError{id, readError(err)}
	}
	return b, nil
}

func (f *File) offset(id uint64) int64 { return int64(id) * int64(f.pageSize) }

// Page reads a branch or leaf. limit is how many pages the file has.
func (f *File) Page(id, limit uint64) (*Page, error) {
	p, err := f.page(new(scratch), id, limit)
	if err != nil {
		return nil, &PageError{id, err}
	}
	return p, nil
}

// scratch is memory for one page, which is used again.
type scratch struct {
	b []byte
	p Page
}

func (s *scratch) grow(size int) []byte {
	if cap(s.b) < size {
		s.b = make([]byte, size)
	}
	return s.b[:size]
}

// content reads what is in use of a tree's page, and checks it.
func (f *File) content(t *Tree, s *scratch, id uint64) ([]byte, error) {
	known, ok := f.cache.get(id)
	if t.tx != 0 && ok {
		b := s.grow(int(known.size))
		if _, err := f.r.ReadAt(b, f.offset(id)); err != nil {
			return nil, &PageError{id, readError(err)}
		}
		if contentOf(b) == known {
			return b, nil
		}
		if !t.Authentic {
			return nil, &PageError{id, errors.New("it was changed by another program, or damaged, since it was last read")}
		}
	}
	if _, err := f.page(s, id, t.pages); err != nil {
		return nil, &PageError{id, err}
	}
	if t.tx != 0 && !ok {
		f.cache.put(t.tx, id, contentOf(s.b))
	}
	return s.b, nil
}

func (f *File) page(s *scratch, id, limit uint64) (*Page, error) {
	if id < 2 || id >= limit {
		return nil, fmt.Errorf("there is no such page; the last one is %d", int64(limit)-1)
	}
	b := s.grow(f.pageSize)
	if _, err := f.r.ReadAt(b, f.offset(id)); err != nil {
		return nil, readError(err)
	}
	h := parseHeader(b)
	switch {
	case h.id != id:
		return nil, fmt.Errorf("it calls itself page %d", h.id)
	case h.kind != kindBranch && h.kind != kindLeaf:
		return nil, fmt.Errorf("it is of kind %#x, not a branch or leaf", h.kind)
	case h.kind == kindBranch && h.count == 0:
		return nil, errors.New("it is an empty branch")
	case uint64(h.overflow) >= limit-id:
		return nil, errors.New("it is longer than the file")
	}
	// The table before the rest, so that no more memory is taken than the table justifies.
	b, err := f.extend(b, id, h.tableSize())
	if err != nil {
		return nil, err
	}
	size, err := h.contentSize(b)
	if err != nil {
		return nil, err
	}
	// Old versions of bbolt allocate one page more if the content ends with a page.
	if extra := uint32((max(size, 1) - 1) / f.pageSize); h.overflow != extra && h.overflow != uint32(size/f.pageSize) {
		return nil, fmt.Errorf("%d more pages belong to it, which contradicts its content of %d bytes", h.overflow, size)
	}
	if b, err = f.extend(b, id, size); err != nil {
		return nil, err
	}
	s.b = b[:size]
	entries, err := h.entries(s.p.Entries, b)
	if err != nil {
		return nil, err
	}
	for i := range entries {
		if e := &entries[i]; h.kind == kindBranch && (e.Child < 2 || e.Child >= limit || e.Child == id) {
			return nil, fmt.Errorf("it leads to page %d, which does not exist", e.Child)
		}
	}
	s.p = Page{ID: id, Overflow: h.overflow, Leaf: h.kind == kindLeaf, Entries: entries}
	return &s.p, nil
}

// extend reads the page on until b has size bytes.
func (f *File) extend(b []byte, id uint64, size int) ([]byte, error) {
	have := len(b)
	if size <= have {
		return b, nil
	}
	b = append(b, make([]byte, size-have)...)
	if _, err := f.r.ReadAt(b[have:], f.offset(id)+int64(have)); err != nil {
		return nil, readError(err)
	}
	return b, nil
}

// Scan yields the entries of all leaves in the file that can be read, buckets apart. Some of these
// leaves are free pages.
func (f *File) Scan(fileSize int64) iter.Seq[Entry] {
	return func(yield func(Entry) bool) {
		for p := range f.leaves(fileSize) {
			for _, e := range p.Entries {
				if !e.Bucket && !yield(e) {
					return
				}
			}
			for _, b := range f.buckets(p, 0) {
				if b.inline != nil && !b.walk(0, limits{}, 0, nil, func(e Entry, err error) bool { return err != nil || yield(e) }) {
					return
				}
			}
		}
	}
}

// leaves yields the leaves in the file that can be read.
func (f *File) leaves(fileSize int64) iter.Seq[*Page] {
	return func(yield func(*Page) bool) {
		limit := uint64(fileSize / int64(f.pageSize))
		for id := uint64(2); id < limit; id++ {
			if p, err := f.page(new(scratch), id, limit); err == nil && p.Leaf && !yield(p) {
				return
			}
		}
	}
}

func readError(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("the file ends before it")
	}
	return err
}
