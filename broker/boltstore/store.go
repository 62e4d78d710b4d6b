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

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// The buckets. The sequence of recordBucket is the last revision assigned. Revisions are
// kept apart from the ciphertexts, so that an older ciphertext does not decrypt if it alone
// is restored.
var (
	recordBucket   = []byte("connections") // encoded key -> ciphertext
	revisionBucket = []byte("revisions")   // encoded key -> revision
	metaBucket     = []byte("meta")
	checkKey       = []byte("check")
)

// listBatch is how many keys List reads in one transaction.
const listBatch = 256

// A Store is a [record.Store] in a local directory. Its revisions never repeat, not even
// after Delete. Methods check ctx before they start; after that they wait for the disk.
type Store struct {
	dir     string
	db      *bolt.DB
	aead    tink.AEAD
	release func()

	closing  sync.Once
	closeErr error // guarded by closing
}

// Load implements [record.Store].
func (s *Store) Load(ctx context.Context, key record.Key) (*record.Record, record.Revision, error) {
	if err := s.ready(ctx, "loading", key); err != nil {
		return nil, 0, err
	}
	storeKey := encodeKey(key)
	var ciphertext []byte
	var rev record.Revision
	err := s.db.View(func(tx *bolt.Tx) (err error) {
		ciphertext = bytes.Clone(tx.Bucket(recordBucket).Get(storeKey))
		rev, err = decodeRevision(tx.Bucket(revisionBucket).Get(storeKey))
		return err
	})
	if err != nil {
		return nil, 0, s.unavailable("loading", key, err)
	}
	if ciphertext == nil && rev == 0 {
		return nil, 0, fmt.Errorf("%s: %w", key, record.ErrNotFound)
	}
	plaintext, err := s.aead.Decrypt(ciphertext, associatedData(storeKey, rev))
	if err != nil {
		return nil, 0, s.unavailable("loading", key, errors.New("the record does not decrypt: "+
			"the database was damaged or tampered with; restore it from a backup, or delete the connection and import it again"))
	}
	rec, err := record.Decode(key, plaintext)
	if err != nil {
		return nil, 0, s.unavailable("loading", key, err)
	}
	return rec, rev, nil
}

// Save implements [record.Store]. bbolt syncs the file before Update returns.
func (s *Store) Save(ctx context.Context, rec *record.Record, rev record.Revision) (record.Revision, error) {
	if err := s.ready(ctx, "saving", rec.Key); err != nil {
		return 0, err
	}
	plaintext, err := record.Encode(rec)
	if err != nil {
		return 0, s.unavailable("saving", rec.Key, err)
	}
	var saved record.Revision
	err = s.db.Update(func(tx *bolt.Tx) (err error) {
		saved, err = s.put(tx, encodeKey(rec.Key), plaintext, rev)
		return err
	})
	if errors.Is(err, record.ErrConflict) {
		return 0, fmt.Errorf("%s: %w", rec.Key, err)
	}
	if err != nil {
		return 0, s.unavailable("saving", rec.Key, err)
	}
	return saved, nil
}

func (s *Store) put(tx *bolt.Tx, storeKey, plaintext []byte, rev record.Revision) (record.Revision, error) {
	records, revisions := tx.Bucket(recordBucket), tx.Bucket(revisionBucket)
	current, err := decodeRevision(revisions.Get(storeKey))
	if err != nil {
		return 0, err
	}
	if current != rev {
		return 0, record.ErrConflict
	}
	next, err := records.NextSequence()
	if err != nil {
		return 0, err
	}
	saved := record.Revision(next)
	ciphertext, err := s.aead.Encrypt(plaintext, associatedData(storeKey, saved))
	if err != nil {
		return 0, err
	}
	if err := revisions.Put(storeKey, encodeRevision(saved)); err != nil {
		return 0, err
	}
	return saved, records.Put(storeKey, ciphertext)
}

// Delete implements [record.Store].
func (s *Store) Delete(ctx context.Context, key record.Key) error {
	if err := s.ready(ctx, "deleting", key); err != nil {
		return err
	}
	storeKey := encodeKey(key)
	err := s.db.Update(func(tx *bolt.Tx) error {
		if err := tx.Bucket(revisionBucket).Delete(storeKey); err != nil {
			return err
		}
		return tx.Bucket(recordBucket).Delete(storeKey)
	})
	if err != nil {
		return s.unavailable("deleting", key, err)
	}
	return nil
}

// List implements [record.Store]. It reads in batches and holds no transaction while it
// yields: bbolt cannot grow its memory map under a reader, so a caller that saves inside
// the loop could wait for ever.
func (s *Store) List(ctx context.Context, application, consumer string) iter.Seq2[record.Key, error] {
	return func(yield func(record.Key, error) bool) {
		prefix := encodePrefix(application, consumer)
		var after []byte
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
	err = s.db.View(func(tx *bolt.Tx) error {
		cursor := tx.Bucket(recordBucket).Cursor()
		from := prefix
		if after != nil {
			from = append(bytes.Clone(after), 0) // the smallest key greater than after
		}
		k, _ := cursor.Seek(from)
		for ; k != nil && bytes.HasPrefix(k, prefix); k, _ = cursor.Next() {
			key, err := decodeKey(k)
			if err != nil {
				return err
			}
			keys = append(keys, key)
			if len(keys) == listBatch {
				last = bytes.Clone(k)
				return nil
			}
		}
		return nil
	})
	return keys, last, err
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
		// In this order: once the database is closed, the file may be the next process's.
		s.closeErr = errors.Join(removeHolder(s.dir), s.db.Close())
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
	_ record.SharedStore = (*Store)(nil)
	_ io.Closer          = (*Store)(nil)
)
