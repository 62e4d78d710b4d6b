package boltfile

import (
	"bytes"
	"errors"
	"hash/fnv"
	"io"
)

// A Writer is the file to write.
type Writer interface {
	io.WriterAt
	Sync() error
}

// ReplaceFreelist commits a new list of free pages, for a file whose list is damaged. It needs
// intact branches: all pages that they do not lead to are free. It overwrites no page but the older
// copy of the header, so a crash loses nothing. Two processes that do it at the same time write the same.
func (f *File) ReplaceFreelist(w Writer, fileSize int64) error {
	meta, damaged, err := f.Metas()
	if err = errors.Join(err, errors.Join(damaged...)); err != nil {
		return err
	}
	ids, err := f.unused(meta, fileSize)
	if err != nil {
		return err
	}
	list := f.freelistPage(meta.Pages, ids)
	if _, err := w.WriteAt(list, f.offset(meta.Pages)); err != nil {
		return err
	}
	if err := w.Sync(); err != nil {
		return err
	}
	next := meta
	next.Freelist, next.Pages, next.Tx = meta.Pages, meta.Pages+uint64(len(list)/f.pageSize), meta.Tx+1
	page, err := f.metaPage(meta, next)
	if err != nil {
		return err
	}
	if _, err := w.WriteAt(page, f.offset(next.Tx%2)); err != nil {
		return err
	}
	return w.Sync()
}

// unused returns the pages that are in no tree. What follows a page that cannot be read may
// belong to it, and is not among them.
func (f *File) unused(meta Meta, fileSize int64) (ids []uint64, err error) {
	if f.offset(meta.Pages) > fileSize {
		return nil, errors.New("the file was cut off")
	}
	in := &inspection{Structure: &Structure{Meta: meta}, file: f, use: make([]byte, meta.Pages)}
	in.trees()
	if in.lost || in.ReadOnly != nil {
		return nil, errors.Join(in.Problems...)
	}
	for id := uint64(2); id < meta.Pages; id++ {
		switch in.use[id] {
		case unknown:
			ids = append(ids, id)
		case inUse:
			p, err := f.Page(id, meta.Pages)
			for follow := id + 1; follow < meta.Pages && in.use[follow] == unknown; follow++ {
				if err == nil && follow > id+uint64(p.Overflow) {
					break
				}
				in.use[follow] = inside
			}
		}
	}
	return ids, nil
}

// freelistPage returns the list as it is written at a page.
func (f *File) freelistPage(id uint64, ids []uint64) []byte {
	elements, count := ids, uint16(min(len(ids), 0xffff))
	if count == 0xffff { // then the count is the first element
		elements = append([]uint64{uint64(len(ids))}, ids...)
	}
	size := headerSize + 8*len(elements)
	pages := (size + f.pageSize - 1) / f.pageSize
	b := make([]byte, pages*f.pageSize)
	putHeader(b, header{id: id, kind: kindFreelist, count: count, overflow: uint32(pages - 1)})
	for i, element := range elements {
		native.PutUint64(b[headerSize+8*i:], element)
	}
	return b
}

// metaPage returns the page of a state that follows another.
func (f *File) metaPage(old, next Meta) ([]byte, error) {
	b := make([]byte, f.pageSize)
	for id := range uint64(2) {
		if m, err := readMeta(f.r, f.offset(id)); err != nil || m != old {
			continue
		}
		if _, err := f.r.ReadAt(b[:headerSize+metaSize], f.offset(id)); err != nil {
			return nil, readError(err)
		}
	}
	putHeader(b, header{id: next.Tx % 2, kind: kindMeta})
	m := b[headerSize:]
	native.PutUint64(m[32:], next.Freelist)
	native.PutUint64(m[40:], next.Pages)
	native.PutUint64(m[48:], next.Tx)
	sum := fnv.New64a()
	_, _ = sum.Write(m[:56])
	native.PutUint64(m[56:], sum.Sum64())
	if written, err := parseMeta(bytes.Clone(m[:metaSize])); err != nil || written != next {
		return nil, errors.New("the header has changed")
	}
	return b, nil
}

func putHeader(b []byte, h header) {
	native.PutUint64(b, h.id)
	native.PutUint16(b[8:], h.kind)
	native.PutUint16(b[10:], h.count)
	native.PutUint32(b[12:], h.overflow)
}
