package brokertest

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"slices"
	"sync"

	"github.com/tokenbroker/caddy-token-broker/broker"
)

// The operations of a [MemStore], as its hooks are told of them.
const (
	OpLoad    = "load"
	OpSave    = "save"
	OpDelete  = "delete"
	OpList    = "list"
	OpDestroy = "destroy"
)

// A MemStore is a [broker.Store] in memory. Several brokers may share it, as
// replicas share a Vault. It keeps records encoded, so that nobody holds a part of
// what is stored. The zero value is empty and ready for use.
type MemStore struct {
	// Fail is called before each operation, outside of every lock; if it returns an
	// error then the operation is not done and the error is its answer. It may wait, to
	// hold an operation back, and may itself call the store, to get in before it. Set
	// it before the store is used. The key of a list is the zero Key.
	Fail func(op string, key broker.Key) error

	// FailAfter is called after each operation that succeeded; if it returns an error
	// then that is the answer, though the operation was done: the answer got lost.
	FailAfter func(op string, key broker.Key) error

	// Exclusive makes [MemStore.Shared] false.
	Exclusive bool

	mu       sync.Mutex
	revision broker.Revision             // guarded by mu; the last one given out
	records  map[broker.Key][]memVersion // guarded by mu; latest last
}

type memVersion struct {
	revision broker.Revision
	data     []byte
}

// Load implements [broker.Store].
func (s *MemStore) Load(ctx context.Context, key broker.Key) (*broker.Record, broker.Revision, error) {
	var rec *broker.Record
	var rev broker.Revision
	err := s.run(ctx, OpLoad, key, func() (err error) {
		latest := s.latest(key)
		if latest.revision == 0 {
			return fmt.Errorf("%s: %w", key, broker.ErrNotFound)
		}
		rec, err = broker.DecodeRecord(key, latest.data)
		rev = latest.revision
		return err
	})
	if err != nil {
		return nil, 0, err
	}
	return rec, rev, nil
}

// Save implements [broker.Store].
func (s *MemStore) Save(ctx context.Context, rec *broker.Record, rev broker.Revision) (broker.Revision, error) {
	data, err := broker.EncodeRecord(rec)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", broker.ErrStoreUnavailable, err)
	}
	var saved broker.Revision
	err = s.run(ctx, OpSave, rec.Key, func() error {
		if s.latest(rec.Key).revision != rev {
			return fmt.Errorf("%s: %w", rec.Key, broker.ErrConflict)
		}
		if s.records == nil {
			s.records = make(map[broker.Key][]memVersion)
		}
		s.revision++
		saved = s.revision
		s.records[rec.Key] = append(s.records[rec.Key], memVersion{saved, data})
		return nil
	})
	if err != nil {
		return 0, err
	}
	return saved, nil
}

// Delete implements [broker.Store].
func (s *MemStore) Delete(ctx context.Context, key broker.Key) error {
	return s.run(ctx, OpDelete, key, func() error {
		delete(s.records, key)
		return nil
	})
}

// DestroyEarlier implements [broker.VersionedStore].
func (s *MemStore) DestroyEarlier(ctx context.Context, key broker.Key, rev broker.Revision) error {
	return s.run(ctx, OpDestroy, key, func() error {
		s.records[key] = slices.DeleteFunc(s.records[key], func(v memVersion) bool { return v.revision < rev })
		if len(s.records[key]) == 0 {
			delete(s.records, key)
		}
		return nil
	})
}

// List implements [broker.Store].
func (s *MemStore) List(ctx context.Context, application, consumer string) iter.Seq2[broker.Key, error] {
	return func(yield func(broker.Key, error) bool) {
		var keys []broker.Key
		err := s.run(ctx, OpList, broker.Key{}, func() error {
			for key := range s.records {
				if application == "" || key.Application == application && (consumer == "" || key.Consumer == consumer) {
					keys = append(keys, key)
				}
			}
			return nil
		})
		if err != nil {
			yield(broker.Key{}, err)
			return
		}
		for _, key := range keys {
			if !yield(key, nil) {
				return
			}
		}
	}
}

// Shared implements [broker.SharedStore].
func (s *MemStore) Shared() bool { return !s.Exclusive }

// Contents returns everything that the store still holds, earlier revisions that
// were not destroyed included, for a test to search.
func (s *MemStore) Contents() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all bytes.Buffer
	for _, versions := range s.records {
		for _, v := range versions {
			all.Write(v.data)
			all.WriteByte('\n')
		}
	}
	return all.Bytes()
}

// run does one operation between the hooks.
func (s *MemStore) run(ctx context.Context, op string, key broker.Key, operation func() error) error {
	if s.Fail != nil {
		if err := s.Fail(op, key); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %s %s: %w", broker.ErrStoreUnavailable, op, key, err)
	}
	if err := s.locked(operation); err != nil {
		return err
	}
	if s.FailAfter != nil {
		return s.FailAfter(op, key)
	}
	return nil
}

func (s *MemStore) locked(operation func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return operation()
}

// latest returns the zero memVersion if there is no record. The caller holds mu.
func (s *MemStore) latest(key broker.Key) memVersion {
	versions := s.records[key]
	if len(versions) == 0 {
		return memVersion{}
	}
	return versions[len(versions)-1]
}

var (
	_ broker.VersionedStore = (*MemStore)(nil)
	_ broker.SharedStore    = (*MemStore)(nil)
)
