package transfer

import (
	"bufio"
	"cmp"
	"container/heap"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"os"
	"slices"
)

// Duplicates finds the rows of a file that are of the same connection, in bounded memory: it
// keeps 16 bytes for each row, in a temporary file when there are more than fit in 1 MiB. Two
// different connections of ten million are taken for one with a probability of 1 to 400,000.
type Duplicates struct {
	seed   maphash.Seed
	recent []occurrence
	limit  int
	file   *os.File // sorted runs, one after the other; nil until needed
	runs   []run
}

// An occurrence is a connection in a row.
type occurrence struct {
	hash uint64 // with a random seed, so that the temporary file tells nothing
	row  uint64
}

func (o occurrence) compare(other occurrence) int {
	return cmp.Or(cmp.Compare(o.hash, other.hash), cmp.Compare(o.row, other.row))
}

const occurrenceSize = 16

// A run is a sorted part of the temporary file.
type run struct{ from, length int64 }

// NewDuplicates returns an empty set. Close it.
func NewDuplicates() *Duplicates {
	const inMemory = 1 << 20
	return &Duplicates{seed: maphash.MakeSeed(), limit: inMemory / occurrenceSize}
}

// Add adds the row with that number.
func (d *Duplicates) Add(row *Row, number int) error {
	d.recent = append(d.recent, occurrence{maphash.Comparable(d.seed, row.Key()), uint64(number)})
	if len(d.recent) < d.limit {
		return nil
	}
	return d.spill()
}

// spill writes the recent rows to the temporary file, as a sorted run.
func (d *Duplicates) spill() error {
	if d.file == nil {
		file, err := os.CreateTemp("", "token-broker-duplicates-*")
		if err != nil {
			return fmt.Errorf("a temporary file to find duplicates: %w", err)
		}
		d.file = file
	}
	slices.SortFunc(d.recent, occurrence.compare)
	from := int64(0)
	if n := len(d.runs); n > 0 {
		from = d.runs[n-1].from + d.runs[n-1].length
	}
	w := bufio.NewWriterSize(io.NewOffsetWriter(d.file, from), 64<<10)
	var buf [occurrenceSize]byte
	for _, o := range d.recent {
		binary.LittleEndian.PutUint64(buf[:8], o.hash)
		binary.LittleEndian.PutUint64(buf[8:], o.row)
		if _, err := w.Write(buf[:]); err != nil {
			return fmt.Errorf("the temporary file to find duplicates: %w", err)
		}
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("the temporary file to find duplicates: %w", err)
	}
	d.runs = append(d.runs, run{from, int64(len(d.recent)) * occurrenceSize})
	d.recent = d.recent[:0]
	return nil
}

// Each calls f for each row whose connection an earlier row has, with the number of the first
// such row. The order is that of neither the rows nor the connections.
func (d *Duplicates) Each(f func(row, first int)) error {
	slices.SortFunc(d.recent, occurrence.compare)
	merge := &runMerge{}
	for _, r := range d.runs {
		merge.add(&runReader{in: bufio.NewReaderSize(io.NewSectionReader(d.file, r.from, r.length), 4<<10)})
	}
	merge.add(&runReader{rest: d.recent})
	var first occurrence // of the current hash
	for begun := false; merge.Len() > 0; begun = true {
		o := merge.next()
		if begun && o.hash == first.hash {
			f(int(o.row), int(first.row))
		} else {
			first = o
		}
	}
	return merge.err
}

// Close removes the temporary file.
func (d *Duplicates) Close() error {
	if d.file == nil {
		return nil
	}
	return errors.Join(d.file.Close(), os.Remove(d.file.Name()))
}

// A runReader reads a sorted run, from the file or from memory.
type runReader struct {
	in   *bufio.Reader
	rest []occurrence
	head occurrence
}

// next reads the next occurrence into head. The error is [io.EOF] at the end.
func (r *runReader) next() error {
	if r.in == nil {
		if len(r.rest) == 0 {
			return io.EOF
		}
		r.head, r.rest = r.rest[0], r.rest[1:]
		return nil
	}
	var buf [occurrenceSize]byte
	if _, err := io.ReadFull(r.in, buf[:]); err != nil {
		return err
	}
	r.head = occurrence{binary.LittleEndian.Uint64(buf[:8]), binary.LittleEndian.Uint64(buf[8:])}
	return nil
}

// A runMerge merges sorted runs: a heap by their next occurrence.
type runMerge struct {
	runs []*runReader
	err  error // of the first run that could not be read
}

func (m *runMerge) add(r *runReader) {
	if m.advance(r) {
		heap.Push(m, r)
	}
}

// advance reads the next occurrence of r, and reports whether there is one.
func (m *runMerge) advance(r *runReader) bool {
	err := r.next()
	if err != nil && !errors.Is(err, io.EOF) {
		m.err = fmt.Errorf("the temporary file to find duplicates: %w", err)
	}
	return err == nil
}

// next removes and returns the least occurrence.
func (m *runMerge) next() occurrence {
	least := m.runs[0]
	o := least.head
	if m.advance(least) {
		heap.Fix(m, 0)
	} else {
		heap.Pop(m)
	}
	return o
}

// Len implements [heap.Interface].
func (m *runMerge) Len() int { return len(m.runs) }

// Less implements [heap.Interface].
func (m *runMerge) Less(i, j int) bool { return m.runs[i].head.compare(m.runs[j].head) < 0 }

// Swap implements [heap.Interface].
func (m *runMerge) Swap(i, j int) { m.runs[i], m.runs[j] = m.runs[j], m.runs[i] }

// Push implements [heap.Interface].
func (m *runMerge) Push(r any) { m.runs = append(m.runs, r.(*runReader)) }

// Pop implements [heap.Interface].
func (m *runMerge) Pop() any {
	last := m.runs[len(m.runs)-1]
	m.runs = m.runs[:len(m.runs)-1]
	return last
}
