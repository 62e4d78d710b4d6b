package boltstore

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/tokenbroker/caddy-token-broker/broker/boltstore/internal/boltfile"
)

// A database is the open file. bbolt writes it, after the pages that it will use were checked:
// bbolt itself maps the file and panics over a damaged page. boltfile does all reading.
type database struct {
	path     string
	bolt     *bolt.DB
	transact func(func(*bolt.Tx) error) error // bolt.Update; tests let it fail
	raw      *os.File                         // bbolt's
	file     *boltfile.File

	writing   sync.Mutex
	freelist  pageHeader    // as of the last change; guarded by writing
	stamp     stamp         // of the last change, of another transaction if it has none; guarded by writing
	committed atomic.Uint64 // transaction of the last change

	// stampedFrom is the first transaction whose root must have its stamp. It is set before the database is used.
	stampedFrom uint64

	findings
	faults *faults
}

// findings are what was wrong with the file when it was opened.
type findings struct {
	// oldHeader is set if one copy of the header was damaged: the last change may be missing.
	oldHeader error

	// doubt is set if it was not seen that the trees and the list of free pages fit together.
	doubt error

	// relisted is set if the last transaction is that of [database.mend], which leaves the stamp as it is.
	relisted bool
}

type pageHeader struct {
	page   uint64
	header [16]byte
}

// view calls read with the database's last state, which stays readable until read returns.
func (d *database) view(read func(*boltfile.Tree) error) error {
	if err := d.faults.broken(); err != nil {
		return err
	}
	if !d.file.Has(d.committed.Load()) { // or it is a later one
		if _, err := d.header(); err != nil {
			return d.explain(err)
		}
	}
	panicked, err := d.guard(func() error {
		return d.bolt.View(func(tx *bolt.Tx) error { return read(d.state(tx, uint64(tx.ID()), nil)) })
	})
	if panicked {
		// bbolt may never release its locks.
		return d.faults.breakWith(d.damaged(err))
	}
	return d.explain(err)
}

// update calls do with the database's last state, and commits the changes that it returns, unless it returns an
// error. do must read each key that it writes from that state first.
func (d *database) update(do func(*bolt.Tx, *boltfile.Tree) ([]change, error)) error {
	d.writing.Lock()
	defer d.writing.Unlock()
	if err := errors.Join(d.faults.broken(), d.faults.readOnly()); err != nil {
		return err
	}
	if err := d.intact(); err != nil {
		return d.explain(err)
	}
	committing := false
	var read []uint64 // the pages that bbolt may free, and more
	next := d.stamp
	panicked, err := d.guard(func() error {
		return d.transact(func(tx *bolt.Tx) error {
			root := d.state(tx, uint64(tx.ID())-1, &read)
			if _, err := readStamp(root); err != nil { // every change replaces the root
				return err
			}
			changes, err := do(tx, root)
			if err == nil && d.stamped() {
				next = d.stamp.next(uint64(tx.ID()), changes)
				err = tx.Bucket(metaBucket).Put(stampKey, next.encode())
			}
			committing = err == nil
			return err
		})
	})
	switch {
	case panicked:
		d.file.Begin(0)
		return d.faults.forbidWrites(d.damaged(err))
	case err != nil && committing:
		d.file.Begin(0)
		// bbolt has read the list of free pages again, and does not check it.
		if damage := d.judge(d.look()); damage != nil {
			_ = d.faults.forbidWrites(damage)
		}
		if meta, headerErr := d.header(); headerErr == nil && meta.Tx != d.committed.Load() {
			_ = d.faults.forbidWrites(d.unconfirmed(err))
		}
		return err
	case err != nil:
		return d.explain(err)
	}
	d.stamp = next
	d.file.Advance(d.committed.Load()+1, read)
	if err := d.remember(); err != nil { // the change itself is on disk
		_ = d.faults.forbidWrites(d.explain(err))
	}
	return nil
}

// stamped reports whether the root has the stamp of the last change. The caller holds writing, or is the only one yet.
func (d *database) stamped() bool { return d.stamp.seen && d.stamp.tx == d.committed.Load() }

// state returns the tree of buckets that a transaction sees, which is the state after last. The pages
// that are read are added to read, if it is not nil.
func (d *database) state(tx *bolt.Tx, last uint64, read *[]uint64) *boltfile.Tree {
	// Neither of them reads a page.
	root, size := tx.Cursor().Bucket().Root(), tx.Size()
	tree := d.file.TreeAfter(last, uint64(root), uint64(size)/uint64(d.file.PageSize()), read)
	tree.Authentic = true // it has a stamp
	return tree
}

// buckets opens the buckets of a state, after a look at its stamp.
func (d *database) buckets(root *boltfile.Tree) (buckets, error) {
	b, err := openBuckets(root)
	if err == nil && root.Tx() >= d.stampedFrom && b.stamp.tx != root.Tx() {
		err = errOlderState
	}
	return b, err
}

// guard calls do and turns a panic, or a fault of the memory map, into an error.
func (d *database) guard(do func() error) (panicked bool, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			d.faults.panic()
			panicked, err = true, fmt.Errorf("bbolt: %v", p)
		}
	}()
	return false, do()
}

// header reads the header, from which bbolt is about to begin. It must not have gone back.
func (d *database) header() (meta boltfile.Meta, err error) {
	for range 3 { // a commit may be writing it
		least := d.committed.Load()
		meta, _, err = d.file.Metas()
		if err == nil && meta.Tx < least {
			err = &boltfile.PageError{Page: least % 2, Err: errors.New("this copy of the header, the newer one, is damaged")}
		}
		if err == nil {
			return meta, nil
		}
	}
	return meta, err
}

// intact checks what every change relies on. The caller holds writing.
func (d *database) intact() error {
	meta, err := d.header()
	if err != nil {
		return err
	}
	if err := d.inPlace(); err != nil {
		return err
	}
	info, err := d.raw.Stat()
	if err != nil {
		return err
	}
	if info.Size() < int64(meta.Pages)*int64(d.file.PageSize()) {
		return &boltfile.PageError{Page: meta.Pages - 1, Err: errors.New("the file was cut off before it")}
	}
	header, err := d.file.Header(meta.Freelist)
	if err != nil {
		return err
	}
	if d.freelist != (pageHeader{meta.Freelist, header}) {
		return &boltfile.PageError{Page: meta.Freelist, Err: errors.New("the list of free pages was damaged")}
	}
	return nil
}

// unconfirmed returns the error for a transaction whose header was written, but perhaps not to the disk. No other may
// be built on it.
func (d *database) unconfirmed(err error) error {
	return fmt.Errorf("%w: %s: the disk has not confirmed the last change: %w: once it works, restart", ErrDamaged, d.path, err)
}

// inPlace checks that the open file is still the one at path: what is written to another is lost.
func (d *database) inPlace() error {
	open, err := d.raw.Stat()
	if err != nil {
		return err
	}
	named, err := os.Stat(d.path)
	if err != nil || !os.SameFile(open, named) {
		return fmt.Errorf("%w: %s was removed or replaced while this process has it open: put it back, and restart", ErrDamaged, d.path)
	}
	return nil
}

// remember notes the state of the last change. The caller holds writing.
func (d *database) remember() error {
	meta, err := d.header()
	if err != nil {
		return err
	}
	header, err := d.file.Header(meta.Freelist)
	if err != nil {
		return err
	}
	d.freelist = pageHeader{meta.Freelist, header}
	d.committed.Store(meta.Tx)
	return nil
}

// look looks at the skeleton of the database.
func (d *database) look() (*boltfile.Structure, error) {
	info, err := d.raw.Stat()
	if err != nil {
		return nil, err
	}
	return d.file.Inspect(info.Size())
}

// judge reports what was found. The error says why nothing may be written.
func (d *database) judge(s *boltfile.Structure, err error) error {
	if err != nil {
		return d.damaged(err)
	}
	d.oldHeader, d.doubt = s.Header, s.Contradicts
	for _, problem := range s.Problems {
		d.faults.report(d.damaged(problem))
	}
	if s.ReadOnly != nil {
		return d.damaged(s.ReadOnly)
	}
	return nil
}

// check returns nil if the database can be read and written, as far as is known.
func (d *database) check() error {
	_, err := d.header()
	if err == nil {
		err = d.inPlace()
	}
	if err != nil {
		return d.explain(err)
	}
	return d.faults.summary()
}

// closeTimeout is how long a database whose locks may never be released is waited for.
const closeTimeout = 5 * time.Second

// close waits for reads and changes in progress.
func (d *database) close() error {
	d.writing.Lock()
	defer d.writing.Unlock()
	if !d.faults.panicked() {
		return d.bolt.Close()
	}
	closed := make(chan error, 1)
	go func() { // after a panic bbolt may wait for a lock that is never released
		_, err := d.guard(d.bolt.Close)
		closed <- err
	}()
	select {
	case err := <-closed:
		return err
	case <-time.After(closeTimeout):
		return errors.Join(d.damaged(errors.New("it cannot be closed before the process ends")), d.raw.Close())
	}
}
