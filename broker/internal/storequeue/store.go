package storequeue

import (
	"context"
	"fmt"
	"io"
	"iter"
	"sync"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// patience bounds a request whose caller may have left. It is longer than the timeout of any
// store.
const patience = 30 * time.Second

// A Store is a store whose requests pass through a queue.
type Store struct {
	store  record.Store
	queue  *queue
	shared bool
	note   func(err error) // gets the result of each Load and Save that was begun

	mu     sync.Mutex
	closed bool           // guarded by mu
	begun  sync.WaitGroup // workers; Add is guarded by mu

	idle    chan func()   // to a worker that waits for a request
	closing chan struct{} // closed with closed set
}

// New returns store behind a queue. overloaded is called with true when requests begin to
// wait for long, and with false when that is over; note is called with the result of each Load
// and Save that was begun.
func New(store record.Store, overloaded func(bool), note func(error)) *Store {
	s := &Store{store: store, shared: true, note: note, idle: make(chan func()), closing: make(chan struct{})}
	if shared, ok := store.(record.SharedStore); ok {
		s.shared = shared.Shared()
	}
	// A store in this process has no latency of a network that could tell of a queue.
	s.queue = newQueue(s.shared, overloaded)
	return s
}

// IsBusy reports whether a request would have to wait for noticeably long.
func (s *Store) IsBusy() bool { return s.queue.busy() }

// Locker returns the queue's lock, for tests of what a caller may wait for.
func (s *Store) Locker() sync.Locker { return &s.queue.mu }

// A reply is what the store has answered.
type reply struct {
	rec *record.Record
	rev record.Revision
	err error
}

// detached makes a request that goes on if ctx ends. Its outcome is then unknown.
func (s *Store) detached(ctx context.Context, request func(context.Context) reply) reply {
	it, err := s.queue.enter(ctx)
	if err != nil {
		return reply{err: err}
	}
	replied := make(chan reply, 1)
	if !s.begin(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		defer cancel()
		r := request(ctx)
		s.queue.leave(it, r.err, true)
		s.note(r.err)
		replied <- r
	}) {
		s.queue.leave(it, nil, false)
		return reply{err: record.ErrShuttingDown}
	}
	select {
	case r := <-replied:
		return r
	case <-ctx.Done():
		return reply{err: fmt.Errorf("%w: %w", record.ErrStoreUnavailable, ctx.Err())}
	}
}

// begin runs a request in a goroutine that Close waits for. If the store is closed, it
// reports false and does nothing.
func (s *Store) begin(request func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	select {
	case s.idle <- request:
	default:
		s.begun.Go(func() { s.work(request) })
	}
	return true
}

// idleTime is how long a worker waits for its next request.
const idleTime = time.Second

// work makes a request, and further ones that follow soon: the stack of each new goroutine would
// have to grow again, and a store needs a deep one.
func (s *Store) work(request func()) {
	timer := time.NewTimer(idleTime)
	defer timer.Stop()
	for {
		request()
		timer.Reset(idleTime)
		select {
		case request = <-s.idle:
		case <-timer.C:
			return
		case <-s.closing:
			return
		}
	}
}

// attached makes a request that ends with ctx.
func (s *Store) attached(ctx context.Context, request func() error) error {
	it, err := s.queue.enter(ctx)
	if err != nil {
		return err
	}
	err = request()
	s.queue.leave(it, err, false)
	return err
}

// Load implements [record.Store].
func (s *Store) Load(ctx context.Context, key record.Key) (*record.Record, record.Revision, error) {
	r := s.detached(ctx, func(ctx context.Context) (r reply) {
		r.rec, r.rev, r.err = s.store.Load(ctx, key)
		return r
	})
	return r.rec, r.rev, r.err
}

// Save implements [record.Store].
func (s *Store) Save(ctx context.Context, rec *record.Record, rev record.Revision) (record.Revision, error) {
	rec = rec.Clone() // the caller may leave and change it
	r := s.detached(ctx, func(ctx context.Context) (r reply) {
		r.rev, r.err = s.store.Save(ctx, rec, rev)
		return r
	})
	return r.rev, r.err
}

// Delete implements [record.Store]. It ends with ctx: a deletion is not compared with what
// is stored, so none may come late.
func (s *Store) Delete(ctx context.Context, key record.Key) error {
	return s.attached(ctx, func() error { return s.store.Delete(ctx, key) })
}

// List implements [record.Store].
func (s *Store) List(ctx context.Context, application, consumer string) iter.Seq2[record.Key, error] {
	if consumer == "" {
		return s.store.List(ctx, application, consumer)
	}
	return func(yield func(record.Key, error) bool) {
		var keys []record.Key
		// The place is not kept while keys are yielded: the caller may make requests.
		err := s.attached(ctx, func() error {
			for key, err := range s.store.List(ctx, application, consumer) {
				if err != nil {
					return err
				}
				keys = append(keys, key)
			}
			return nil
		})
		for _, key := range keys {
			if !yield(key, nil) {
				return
			}
		}
		if err != nil {
			yield(record.Key{}, err)
		}
	}
}

// ListAfter implements [record.ResumableStore]. If the store does not, it lists all keys.
func (s *Store) ListAfter(ctx context.Context, after record.Key) iter.Seq2[record.Key, error] {
	if resumable, ok := s.store.(record.ResumableStore); ok {
		return resumable.ListAfter(ctx, after)
	}
	return s.store.List(ctx, "", "")
}

// Check implements [record.CheckedStore].
func (s *Store) Check(ctx context.Context) error {
	if checker, ok := s.store.(record.CheckedStore); ok {
		return checker.Check(ctx)
	}
	return nil
}

// DestroyEarlier implements [record.VersionedStore].
func (s *Store) DestroyEarlier(ctx context.Context, key record.Key, rev record.Revision) error {
	versioned, ok := s.store.(record.VersionedStore)
	if !ok {
		return nil
	}
	return s.attached(With(ctx, Idle), func() error { return versioned.DestroyEarlier(ctx, key, rev) })
}

// KeepsEarlier reports whether the store has earlier revisions of records, and so something to
// destroy.
func (s *Store) KeepsEarlier() bool {
	_, ok := s.store.(record.VersionedStore)
	return ok
}

// KeepsFew implements [record.PruningStore].
func (s *Store) KeepsFew(key record.Key, rev record.Revision) bool {
	pruning, ok := s.store.(record.PruningStore)
	return ok && pruning.KeepsFew(key, rev)
}

// Shared implements [record.SharedStore].
func (s *Store) Shared() bool { return s.shared }

// Close closes the store once it has answered all requests.
func (s *Store) Close() error {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.closing)
	}
	s.mu.Unlock()
	s.begun.Wait()
	if closer, ok := s.store.(io.Closer); ok {
		return closer.Close()
	}
	return nil
}

var (
	_ record.CheckedStore   = (*Store)(nil)
	_ record.PruningStore   = (*Store)(nil)
	_ record.ResumableStore = (*Store)(nil)
	_ record.SharedStore    = (*Store)(nil)
	_ io.Closer             = (*Store)(nil)
)
