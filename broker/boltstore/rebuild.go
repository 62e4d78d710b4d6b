package boltstore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/tink-crypto/tink-go/v2/tink"
	bolt "go.etcd.io/bbolt"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/internal/syncdir"
)

// lockForReading lets no other process write to the store, unless bbolt cannot open it: then no
// process can.
func lockForReading(ctx context.Context, dir string) (unlock func(), err error) {
	release, err := reserve(dir)
	if err != nil {
		return nil, err
	}
	d, attachErr := attach(ctx, dir, &Config{}, &faults{log: (&Config{}).logger()}, true)
	if errors.Is(attachErr, ErrLocked) {
		release()
		return nil, attachErr
	}
	return func() {
		if attachErr == nil {
			_ = d.close() // it was only read
		}
		release()
	}, nil
}

// A rebuild writes a new database.
type rebuild struct {
	path  string
	db    *bolt.DB
	batch []entry
	last  record.Revision // the greatest that was put
	sum   uint64          // of all revisions
}

type entry struct {
	storeKey []byte
	stored
}

// maxBatch is how many records one transaction writes.
const maxBatch = 1000

// newRebuild creates the file.
func newRebuild(path string, key tink.AEAD) (*rebuild, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("creating the new database: %w", err)
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	w := &rebuild{path: path}
	if w.db, err = bolt.Open(path, 0o600, &bolt.Options{FreelistType: bolt.FreelistMapType, NoStatistics: true, NoSync: true}); err != nil {
		return nil, errors.Join(err, os.Remove(path))
	}
	if err := w.db.Update(func(tx *bolt.Tx) error { return createBuckets(tx, key) }); err != nil {
		return nil, w.finish(0, err)
	}
	return w, nil
}

// put adds a record.
func (w *rebuild) put(storeKey []byte, s stored) error {
	w.batch = append(w.batch, entry{storeKey, s})
	w.last = max(w.last, s.rev)
	w.sum += revisionSum(storeKey, s.rev)
	if len(w.batch) < maxBatch {
		return nil
	}
	return w.flush()
}

func (w *rebuild) flush() error {
	err := w.db.Update(func(tx *bolt.Tx) error {
		for _, e := range w.batch {
			if err := tx.Bucket(recordBucket).Put(e.storeKey, e.ciphertext); err != nil {
				return err
			}
			if err := tx.Bucket(revisionBucket).Put(e.storeKey, encodeRevision(e.rev)); err != nil {
				return err
			}
		}
		return nil
	})
	w.batch = nil
	return err
}

// finish makes the file durable, or removes it if there was an error. rev is the last revision
// that the damaged database has assigned.
func (w *rebuild) finish(rev record.Revision, err error) error {
	if err == nil {
		err = w.flush()
	}
	if err == nil {
		err = w.db.Update(func(tx *bolt.Tx) error {
			last := stamp{tx: uint64(tx.ID()), sum: w.sum}
			return errors.Join(tx.Bucket(recordBucket).SetSequence(uint64(max(rev, w.last))),
				tx.Bucket(metaBucket).Put(stampKey, last.encode()))
		})
	}
	if err == nil {
		err = w.db.Sync()
	}
	err = errors.Join(err, w.db.Close())
	if err == nil {
		err = syncdir.Sync(filepath.Dir(w.path))
	}
	if err != nil {
		return errors.Join(err, os.Remove(w.path))
	}
	return nil
}
