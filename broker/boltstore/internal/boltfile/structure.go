package boltfile

import (
	"errors"
	"fmt"
)

// A Structure is what a look at a database's skeleton found: at its header, its branches and its
// list of free pages, which are few, and not at all leaves, which are most of the file.
type Structure struct {
	Meta Meta

	// Header is set if one of the two copies of the header is damaged: the last change may be
	// missing from Meta.
	Header error

	// Freelist is set if the list of free pages cannot be read, and nothing else about the skeleton
	// is damaged; see [File.ReplaceFreelist].
	Freelist error

	// Contradicts is set if the trees and the list of free pages do not fit together, or there is no
	// list. One of them may be of an earlier state, and which one cannot be seen from the pages.
	Contradicts error

	// Problems are all other damaged pages that were found.
	Problems []error

	// ReadOnly is the reason, if any, why a change could destroy what is still readable.
	ReadOnly error
}

// What a page is used for.
const (
	unknown = iota
	inUse   // the first page of a branch, leaf or list
	inside  // another page of it
	free
)

type inspection struct {
	*Structure
	file *File
	use  []byte // by page
	lost bool   // a branch cannot be read, and so it is unknown what is below it
}

// Inspect looks at the skeleton of the newest state. err means that there is no state.
func (f *File) Inspect(fileSize int64) (*Structure, error) {
	meta, damaged, err := f.Metas()
	if err != nil {
		return nil, err
	}
	s := &Structure{Meta: meta, Header: errors.Join(damaged...)}
	if meta.Pages < 4 || meta.Pages > 1<<40 {
		return nil, &PageError{meta.Tx % 2, errors.New("this copy of the header is malformed")}
	}
	if missing := f.offset(meta.Pages) - fileSize; missing > 0 {
		s.stop(fmt.Errorf("the file was cut off: its last %d bytes are missing", missing))
	}
	in := &inspection{Structure: s, file: f, use: make([]byte, min(meta.Pages, uint64(fileSize/int64(f.pageSize))+1))}
	if s.ReadOnly != nil {
		return s, nil //nolint:nilerr // the list of free pages cannot be verified
	}
	in.trees()
	in.freelist()
	in.gaps()
	return s, nil
}

// stop records a problem because of which nothing may be written.
func (s *Structure) stop(err error) {
	s.Problems = append(s.Problems, err)
	if s.ReadOnly == nil {
		s.ReadOnly = err
	}
}

// contradiction records that the trees and the list of free pages do not fit together.
func (in *inspection) contradiction(err error) {
	err = &PageError{in.Meta.Freelist, fmt.Errorf("the list of free pages does not fit the trees: %w", err)}
	in.stop(err)
	in.Contradicts = err
	in.lost = true
}

func (in *inspection) problem(err error) {
	in.Problems = append(in.Problems, err)
	in.lost = true
}

// claim records that a page is in use.
func (in *inspection) claim(id uint64) bool {
	if id < 2 || id >= uint64(len(in.use)) || in.use[id] != unknown {
		// bbolt would free it twice.
		err := &PageError{id, errors.New("two places lead to it")}
		in.stop(err)
		in.Contradicts = err
		in.lost = true
		return false
	}
	in.use[id] = inUse
	return true
}

func (in *inspection) trees() {
	root := in.file.Tree(in.Meta.Root, in.Meta.Pages)
	if !in.claim(in.Meta.Root) {
		return
	}
	for e, err := range root.All(nil) {
		if err != nil {
			in.stop(err)
			in.lost = true
			continue
		}
		b, err := root.bucket(e)
		if err != nil {
			in.stop(err)
			in.lost = true
			continue
		}
		if b.inline == nil && in.claim(b.root) {
			p, err := b.page(new(scratch), b.root, limits{}, 0)
			in.branch(b, p, err, limits{}, 0)
		}
	}
}

// branch looks at a page, and at the branches below it.
func (in *inspection) branch(t *Tree, p raw, err error, l limits, depth int) {
	if err != nil {
		in.problem(err)
		return
	}
	if p.leaf() {
		return
	}
	for i := range p.overflow {
		in.use[p.id+1+uint64(i)] = inside
	}
	// All leaves are equally deep: the first readable child tells whether its siblings are leaves.
	leaves := false
	for i := range int(p.count) {
		e := p.entry(i)
		if !in.claim(e.Child) || leaves {
			continue
		}
		child, err := t.page(new(scratch), e.Child, l.below(p, i), depth+1)
		leaves = err == nil && child.leaf()
		in.branch(t, child, err, l.below(p, i), depth+1)
	}
}

// freelist looks at the list of free pages.
func (in *inspection) freelist() {
	ids, pages, err := in.file.freelist(in.Meta)
	if err != nil {
		err = &PageError{in.Meta.Freelist, fmt.Errorf("the list of free pages is damaged: %w", err)}
		if !in.lost && in.ReadOnly == nil {
			in.Freelist = err
		}
		in.Contradicts = err
		in.stop(err)
		in.lost = true
		return
	}
	for i := range pages {
		use := byte(inside)
		if i == 0 {
			use = inUse
		}
		if in.use[in.Meta.Freelist+i] != unknown {
			in.contradiction(errors.New("other pages are in its place"))
			return
		}
		in.use[in.Meta.Freelist+i] = use
	}
	for _, id := range ids {
		if in.use[id] != unknown {
			in.contradiction(fmt.Errorf("it has page %d, which is in use", id))
			return
		}
		in.use[id] = free
	}
}

// freelist reads the list, and returns how many pages it takes itself.
func (f *File) freelist(m Meta) (ids []uint64, pages uint64, err error) {
	if m.Freelist == none {
		return nil, 0, errors.New("the file has none; it was written by another program")
	}
	if m.Freelist < 2 || m.Freelist >= m.Pages {
		return nil, 0, errors.New("there is no such page")
	}
	b := make([]byte, headerSize+8)
	if _, err := f.r.ReadAt(b, f.offset(m.Freelist)); err != nil {
		return nil, 0, readError(err)
	}
	h := parseHeader(b)
	count, start := uint64(h.count), headerSize
	if h.count == 0xffff { // the count is the first element
		count, start = native.Uint64(b[headerSize:]), headerSize+8
	}
	pages = uint64(h.overflow) + 1
	room := (pages*uint64(f.pageSize) - uint64(start)) / 8
	if h.id != m.Freelist || h.kind != kindFreelist || pages > m.Pages-m.Freelist || count > room {
		return nil, 0, errors.New("it is malformed")
	}
	b = make([]byte, count*8)
	if _, err := f.r.ReadAt(b, f.offset(m.Freelist)+int64(start)); err != nil {
		return nil, 0, readError(err)
	}
	ids = make([]uint64, count)
	for i := range ids {
		ids[i] = native.Uint64(b[8*i:])
		if ids[i] < 2 || ids[i] >= m.Pages || i > 0 && ids[i] <= ids[i-1] {
			return nil, 0, fmt.Errorf("element %d is malformed", i)
		}
	}
	return ids, pages, nil
}

// gaps looks at the pages that are neither in use nor free: each must be one of the further
// pages of the leaf before it. And a free page must not be one of those.
func (in *inspection) gaps() {
	if in.lost || in.ReadOnly != nil {
		return // pages are unaccounted for already
	}
	for id := uint64(2); id < in.Meta.Pages; {
		start := id
		for id++; id < in.Meta.Pages && in.use[id] == unknown; id++ {
		}
		follow := id - start - 1
		beforeFree := id < in.Meta.Pages && in.use[id] == free
		switch {
		case in.use[start] == inUse && start != in.Meta.Freelist && (follow > 0 || beforeFree):
			in.extent(start, follow, beforeFree)
		case in.use[start] == unknown || follow > 0:
			in.Contradicts = &PageError{start + 1, errors.New("it is neither in use nor free")}
			in.Problems = append(in.Problems, in.Contradicts)
		}
	}
}

// extent checks how many pages a page takes.
func (in *inspection) extent(id, follow uint64, beforeFree bool) {
	b, err := in.file.Header(id)
	if h := parseHeader(b[:]); err == nil && h.id == id && uint64(h.overflow) == follow {
		return
	}
	p, err := in.file.Page(id, in.Meta.Pages)
	switch {
	case err != nil:
		in.Problems = append(in.Problems, err)
	case uint64(p.Overflow) > follow && beforeFree:
		in.contradiction(fmt.Errorf("it has page %d, which is in use", id+follow+1))
	case uint64(p.Overflow) != follow:
		in.Problems = append(in.Problems, &PageError{id, fmt.Errorf("%d more pages belong to it, and %d follow", p.Overflow, follow)})
	}
}
