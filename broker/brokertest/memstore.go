package brokertest

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"iter"
	"slices"
	"sync"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// The operations of a [MemStore], as its hooks receive them.
const (
	OpLoad    = "load"
	OpSave    = "save"
	OpDelete  = "delete"
	OpList    = "list"
	OpDestroy = "destroy"
)

// A MemStore is a [record.Store] in memory. Several brokers may share it, as replicas share a
// Vault. It keeps records encoded, so that callers share no memory with it. The zero value is
// an empty store, ready to use.
type MemStore struct {
	// Fail, if set, is called before each operation, without a lock held. If it returns an
	// error, the operation returns that error and does nothing. It may block, to delay the
	// operation, and may call the store, to act before it. Set it before using the store.
	// For List the key is zero.
	Fail func(op string, key record.Key) error

	// FailAfter, if set, is called after each operation that succeeded. If it returns an
	// error, the operation returns that error although it was carried out: the response was
	// lost.
	FailAfter func(op string, key record.Key) error

	// Exclusive makes [MemStore.Shared] return false.
	Exclusive bool

	mu       sync.Mutex
	revision record.Revision             // guarded by mu; the last one assigned
	records  map[record.Key][]memVersion // guarded by mu; latest last
}

type memVersion struct {
	revision record.Revision
	data     []byte
}

// Load implements [record.Store].
func (s *MemStore) Load(ctx context.Context, key record.Key) (*record.Record, record.Revision, error) {
	var rec *record.Record
	var rev record.Revision
	err := s.run(ctx, OpLoad, key, func() (err error) {
		latest := s.latest(key)
		if latest.revision == 0 {
			return fmt.Errorf("%s: %w", key, record.ErrNotFound)
		}
		rec, err = record.Decode(key, latest.data)
		rev = latest.revision
		return err
	})
	if err != nil {
		return nil, 0, err
	}
	return rec, rev, nil
}

// Save implements [record.Store].
func (s *MemStore) Save(ctx context.Context, rec *record.Record, rev record.Revision) (record.Revision, error) {
	data, err := record.Encode(rec)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", record.ErrStoreUnavailable, err)
	}
	var saved record.Revision
	err = s.run(ctx, OpSave, rec.Key, func() error {
		if s.latest(rec.Key).revision != rev {
			return fmt.Errorf("%s: %w", rec.Key, record.ErrConflict)
		}
		if s.records == nil {
			s.records = make(map[record.Key][]memVersion)
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

// Delete implements [record.Store].
func (s *MemStore) Delete(ctx context.Context, key record.Key) error {
	return s.run(ctx, OpDelete, key, func() error {
		delete(s.records, key)
		return nil
	})
}

// DestroyEarlier implements [record.VersionedStore].
func (s *MemStore) DestroyEarlier(ctx context.Context, key record.Key, rev record.Revision) error {
	return s.run(ctx, OpDestroy, key, func() error {
		s.records[key] = slices.DeleteFunc(s.records[key], func(v memVersion) bool { return v.revision < rev })
		if len(s.records[key]) == 0 {
			delete(s.records, key)
		}
		return nil
	})
}

// List implements [record.Store].
func (s *MemStore) List(ctx context.Context, application, consumer string) iter.Seq2[record.Key, error] {
	return func(yield func(record.Key, error) bool) {
		var keys []record.Key
		err := s.run(ctx, OpList, record.Key{}, func() error {
			for key := range s.records {
				if application == "" || key.Application == application && (consumer == "" || key.Consumer == consumer) {
					keys = append(keys, key)
				}
			}
			return nil
		})
		if err != nil {
			yield(record.Key{}, err)
			return
		}
		for _, key := range keys {
			if !yield(key, nil) {
				return
			}
		}
	}
}

// ListAfter implements [record.ResumableStore].
func (s *MemStore) ListAfter(ctx context.Context, after record.Key) iter.Seq2[record.Key, error] {
	return func(yield func(record.Key, error) bool) {
		var keys []record.Key
		for key, err := range s.List(ctx, "", "") {
			if err != nil {
				yield(record.Key{}, err)
				return
			}
			if compareKeys(key, after) > 0 {
				keys = append(keys, key)
			}
		}
		slices.SortFunc(keys, compareKeys)
		for _, key := range keys {
			if !yield(key, nil) {
				return
			}
		}
	}
}

func compareKeys(a, b record.Key) int {
	return cmp.Or(
		cmp.Compare(a.Application, b.Application), cmp.Compare(a.Consumer, b.Consumer),
		cmp.Compare(a.Connector.UnifiedAPI, b.Connector.UnifiedAPI), cmp.Compare(a.Connector.ServiceID, b.Connector.ServiceID),
	)
}

// Shared implements [record.SharedStore].
func (s *MemStore) Shared() bool { return !s.Exclusive }

// Contents returns everything in the store, including earlier revisions that were not
// destroyed, for tests to search.
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

// run runs an operation between the hooks.
func (s *MemStore) run(ctx context.Context, op string, key record.Key, operation func() error) error {
	if s.Fail != nil {
		if err := s.Fail(op, key); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %s %s: %w", record.ErrStoreUnavailable, op, key, err)
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
func (s *MemStore) latest(key record.Key) memVersion {
	versions := s.records[key]
	if len(versions) == 0 {
		return memVersion{}
	}
	return versions[len(versions)-1]
}

var (
	_ record.VersionedStore = (*MemStore)(nil)
	_ record.ResumableStore = (*MemStore)(nil)
	_ record.SharedStore    = (*MemStore)(nil)
)
