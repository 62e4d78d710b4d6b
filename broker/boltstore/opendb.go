package boltstore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/tokenbroker/caddy-token-broker/broker/boltstore/internal/boltfile"
)

// openDatabase opens the database in dir, and creates it if there is neither a database nor a
// key. One that changes could damage further is opened for reading only.
func openDatabase(ctx context.Context, dir string, config *Config, keys keySource) (*database, error) {
	known := &faults{log: config.logger()}
	var found findings
	isNew, err := isNewStore(dir, keys)
	if err != nil {
		return nil, err
	}
	if !isNew {
		// bbolt trusts the list of free pages when it opens a file to write. So the file is first
		// looked at under the lock for readers.
		d, err := attach(ctx, dir, config, known, true)
		if err != nil {
			return nil, err
		}
		s, err := d.mend()
		if err = d.judge(s, err); err != nil {
			_ = known.forbidWrites(err)
			return d, nil
		}
		found = d.findings
		if err := d.close(); err != nil {
			return nil, err
		}
	}
	d, err := attach(ctx, dir, config, known, false)
	if err == nil {
		d.findings = found
	}
	return d, err
}

// mend replaces the list of free pages if that alone is damaged.
func (d *database) mend() (*boltfile.Structure, error) {
	s, err := d.look()
	if err != nil || s.Freelist == nil || s.Header != nil {
		return s, err
	}
	// Of trees that are too old, the list would have pages that are in use. And the new state has no
	// stamp, so this is the last time that they can be proven.
	root := d.file.Tree(s.Meta.Root, s.Meta.Pages)
	if last, err := readStamp(root); err != nil || last.seen && !last.proves(s.Meta.Tx, root) {
		return s, nil //nolint:nilerr // it is found again
	}
	info, err := d.raw.Stat()
	if err != nil {
		return nil, err
	}
	w, err := os.OpenFile(d.path, os.O_RDWR, 0)
	if err != nil {
		return s, nil //nolint:nilerr // it can still be read
	}
	err = errors.Join(d.file.ReplaceFreelist(w, info.Size()), w.Close())
	after, lookErr := d.look()
	if err != nil || lookErr != nil || after.ReadOnly != nil {
		return s, nil //nolint:nilerr // as before
	}
	d.mended(s.Freelist)
	d.relisted = true
	return after, nil
}

// isNewStore reports whether the directory has no database. A key file alone is an error.
func isNewStore(dir string, keys keySource) (bool, error) {
	path := filepath.Join(dir, databaseName)
	// In this order: another process may be creating first the database, then the key.
	_, keyErr := keys.read()
	info, err := os.Stat(path)
	switch {
	case err == nil && info.Size() > 0:
		return false, nil
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return false, fmt.Errorf("opening the embedded store: %w", err)
	case errors.Is(keyErr, os.ErrNotExist) || keys.given != nil:
		return true, nil
	case keyErr != nil:
		return false, keyErr
	}
	state := "does not exist"
	if err == nil {
		state = "is empty"
	}
	return false, fmt.Errorf("%w: %s %s, and its key %s is there: restore the database from a backup; "+
		"or, to start without any connections, move the key away", ErrDatabaseMissing, path, state, keys)
}

// attach opens the file with bbolt, which locks it.
func attach(ctx context.Context, dir string, config *Config, known *faults, readOnly bool) (*database, error) {
	d := &database{path: filepath.Join(dir, databaseName), faults: known}
	options := &bolt.Options{
		Timeout: lockAttempt, FreelistType: bolt.FreelistMapType, NoStatistics: true, ReadOnly: readOnly,
		OpenFile: func(path string, flag int, mode os.FileMode) (_ *os.File, err error) {
			d.raw, err = os.OpenFile(path, flag, mode)
			return d.raw, err
		},
	}
	for deadline := time.Now().Add(config.lockTimeout()); ; {
		_, err := d.guard(func() (err error) {
			d.bolt, err = bolt.Open(d.path, 0o600, options)
			return err
		})
		switch {
		case err == nil:
			d.transact = d.bolt.Update
			return d, d.begin()
		case !errors.Is(err, bolterrors.ErrTimeout):
			return nil, explainOpening(d.path, err)
		case ctx.Err() != nil:
			return nil, fmt.Errorf("%w: %w", lockedBy(dir), ctx.Err())
		case time.Now().After(deadline):
			return nil, lockedBy(dir)
		}
	}
}

// explainOpening returns the error for a file that bbolt cannot open.
func explainOpening(path string, err error) error {
	if _, isSystem := errors.AsType[syscall.Errno](err); isSystem {
		return fmt.Errorf("opening %s: %w", path, err)
	}
	return damagedFile(path, err)
}

// begin notes the state in which the file is.
func (d *database) begin() (err error) {
	d.writing.Lock()
	defer d.writing.Unlock()
	var meta boltfile.Meta
	if d.file, err = boltfile.Open(d.raw); err == nil {
		meta, err = d.header()
	}
	if err != nil {
		return errors.Join(d.damaged(err), d.bolt.Close())
	}
	d.committed.Store(meta.Tx)
	d.file.Begin(meta.Tx)
	_ = d.remember() // or no change is accepted
	return nil
}
