package boltstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync"

	"github.com/tink-crypto/tink-go/v2/tink"
	bolt "go.etcd.io/bbolt"

	"github.com/tokenbroker/caddy-token-broker/broker/boltstore/internal/boltfile"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// listBatch is how many keys List reads in one transaction.
const listBatch = 256

// A Store is a [record.Store] in a local directory. Its revisions never repeat, not even
// after Delete. A method ends with ctx until it starts to read or to write; after that it waits for the disk.
type Store struct {
	dir     string
	keys    keySource
	db      *database
	changes queue
	aead    tink.AEAD
	release func()

	// suspects are connections whose last change may be lost, by keySum. proven is set if all revisions
	// are known to be those of the last state. Both are set before the store is used.
	suspects map[uint64]bool
	proven   bool

	closing  sync.Once
	closeErr error // guarded by closing
}

// Load implements [record.Store].
func (s *Store) Load(ctx context.Context, key record.Key) (*record.Record, record.Revision, error) {
	if err := s.ready(ctx, "loading", key); err != nil {
		return nil, 0, err
	}
	var found stored
	storeKey := encodeKey(key)
	err := s.db.view(func(root *boltfile.Tree) error {
		b, err := s.db.buckets(root)
		if err == nil {
			found, err = s.find(b, storeKey)
		}
		return err
	})
	if err != nil {
		return nil, 0, s.unavailable("loading", key, err)
	}
	if found.rev == 0 {
		return nil, 0, fmt.Errorf("%s: %w", key, record.ErrNotFound)
	}
	plaintext, err := s.aead.Decrypt(found.ciphertext, associatedData(storeKey, found.rev))
	if err != nil {
		return nil, 0, s.unavailable("loading", key, s.db.explain(contradiction(fmt.Sprintf("the record of %s does not decrypt", key))))
	}
	rec, err := record.Decode(key, plaintext)
	if err != nil {
		return nil, 0, s.unavailable("loading", key, err)
	}
	return rec, found.rev, nil
}

// find reads a record as it is stored, whose revision is 0 if there is none.
func (s *Store) find(b buckets, storeKey []byte) (stored, error) {
	if len(s.suspects) > 0 && s.suspects[keySum(storeKey)] {
		return stored{}, lostChange(string(storeKey))
	}
	return b.get(storeKey)
}

// Save implements [record.Store]. Once it returns nil, bbolt has synced the file.
func (s *Store) Save(ctx context.Context, rec *record.Record, rev record.Revision) (record.Revision, error) {
	if err := s.ready(ctx, "saving", rec.Key); err != nil {
		return 0, err
	}
	storeKey := encodeKey(rec.Key)
	if len(storeKey) > bolt.MaxKeySize {
		return 0, fmt.Errorf("%s: %w", rec.Key, record.ErrRecordTooLarge)
	}
	plaintext, err := record.Encode(rec)
	if err != nil {
		return 0, s.unavailable("saving", rec.Key, err)
	}
	r := &request{storeKey: storeKey, plaintext: plaintext, expected: rev}
	err = s.changes.do(ctx, r)
	if errors.Is(err, record.ErrConflict) {
		return 0, fmt.Errorf("%s: %w", rec.Key, err)
	}
	if err != nil {
		return 0, s.unavailable("saving", rec.Key, err)
	}
	return r.saved, nil
}

// Delete implements [record.Store].
func (s *Store) Delete(ctx context.Context, key record.Key) error {
	if err := s.ready(ctx, "deleting", key); err != nil {
		return err
	}
	if err := s.changes.do(ctx, &request{storeKey: encodeKey(key)}); err != nil {
		return s.unavailable("deleting", key, err)
	}
	return nil
}

// List implements [record.Store].
func (s *Store) List(ctx context.Context, application, consumer string) iter.Seq2[record.Key, error] {
	return s.list(ctx, encodePrefix(application, consumer), nil)
}

// ListAfter implements [record.ResumableStore].
func (s *Store) ListAfter(ctx context.Context, after record.Key) iter.Seq2[record.Key, error] {
	if after == (record.Key{}) {
		return s.list(ctx, nil, nil)
	}
	return s.list(ctx, nil, encodeKey(after))
}

// list yields the keys with the given prefix that follow after, from the first if after is
// nil. It reads in batches and holds no transaction while it yields: bbolt cannot grow its
// memory map under a reader, so a caller that saves inside the loop could wait for ever.
func (s *Store) list(ctx context.Context, prefix, after []byte) iter.Seq2[record.Key, error] {
	return func(yield func(record.Key, error) bool) {
		after := after // the sequence can be used again
		for {
			var batch []record.Key
			err := ctx.Err()
			if err == nil {
				batch, after, err = s.listAfter(prefix, after)
			}
			if err != nil {
				yield(record.Key{}, fmt.Errorf("%w: listing connections in %s: %w", record.ErrStoreUnavailable, s.dir, err))
				return
			}
			for _, key := range batch {
				if !yield(key, nil) {
					return
				}
			}
			if after == nil {
				return
			}
		}
	}
}

// listAfter returns a batch of the keys with the given prefix that follow after, from the
// first if after is nil. last is the key to continue after, nil if there are no more.
func (s *Store) listAfter(prefix, after []byte) (keys []record.Key, last []byte, err error) {
	err = s.db.view(func(root *boltfile.Tree) error {
		if len(s.suspects) > 0 {
			return contradiction("some of the last changes are lost")
		}
		from := prefix
		if after != nil {
			from = append(bytes.Clone(after), 0) // the smallest key greater than after
		}
		b, err := s.db.buckets(root)
		if err != nil {
			return err
		}
		list := b.list
		if s.proven {
			list = b.listRevisions
		}
		batch, err := list(from, prefix, listBatch)
		if err != nil {
			return err
		}
		for _, k := range batch {
			key, err := decodeKey(k)
			if err != nil {
				return err
			}
			keys = append(keys, key)
		}
		if len(batch) == listBatch {
			last = batch[len(batch)-1]
		}
		return nil
	})
	return keys, last, err
}

// Check implements [record.CheckedStore]. It reports damage that was found while the store is
// open, until it is opened again.
func (s *Store) Check(context.Context) error {
	if err := s.db.check(); err != nil {
		return fmt.Errorf("%w: %w", record.ErrStoreUnavailable, err)
	}
	return nil
}

// Shared implements [record.SharedStore]. It is false: while this process has the file
// open, no other process does.
func (s *Store) Shared() bool { return false }

// String says where the store is, for logs.
func (s *Store) String() string { return "embedded store in " + s.dir }

// Close waits for operations in progress and releases the store to other processes.
// Further operations fail with [record.ErrStoreUnavailable].
func (s *Store) Close() error {
	s.closing.Do(func() {
		s.changes.close()
		// In this order: once the database is closed, the file may be the next process's.
		s.closeErr = errors.Join(removeHolder(s.dir), s.db.close())
		s.release()
	})
	return s.closeErr
}

func (s *Store) ready(ctx context.Context, doing string, key record.Key) error {
	if err := ctx.Err(); err != nil {
		return s.unavailable(doing, key, err)
	}
	return nil
}

func (s *Store) unavailable(doing string, key record.Key, err error) error {
	return fmt.Errorf("%w: %s %s in %s: %w", record.ErrStoreUnavailable, doing, key, s.dir, err)
}

var (
	_ record.SharedStore    = (*Store)(nil)
	_ record.CheckedStore   = (*Store)(nil)
	_ record.ResumableStore = (*Store)(nil)
	_ io.Closer             = (*Store)(nil)
)
