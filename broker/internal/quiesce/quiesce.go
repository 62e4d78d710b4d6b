// Package quiesce puts the connections of a store into standby and waits until refreshes in
// progress have ended, so that what is read then stays true. It works on the store alone:
// every process that redeems a refresh token first saves a lease in the record.
package quiesce

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// A Holder holds the connections of one store in standby.
type Holder struct {
	store  record.Store
	shared bool

	mu   sync.Mutex
	seen map[record.Key]observation // guarded by mu; of the leases that are still held
}

// An observation is a lease, and when this process saw it first.
type observation struct {
	lease string
	since time.Time // monotonic
}

// New returns a holder for a store.
func New(store record.Store) *Holder {
	h := &Holder{store: store, shared: true, seen: make(map[record.Key]observation)}
	if s, ok := store.(record.SharedStore); ok {
		h.shared = s.Shared()
	}
	return h
}

// maxConflicts is how many conflicts with other writers one change survives.
const maxConflicts = 50

// Hold puts a connection into standby, unless it is there or is deleted. change reports whether
// it was changed. before, if not nil, sees the record first; if it returns an error, nothing is
// saved. Errors: [record.ErrNotFound] and others of the store.
func (h *Holder) Hold(ctx context.Context, key record.Key, before func(*record.Record) error) (changed bool, err error) {
	for conflicts := 0; ; conflicts++ {
		rec, rev, err := h.store.Load(ctx, key)
		if err != nil {
			return false, err
		}
		if before != nil {
			if err := before(rec); err != nil {
				return false, err
			}
		}
		if rec.IsTombstone() || rec.Standby {
			h.observe(rec)
			return false, nil
		}
		rec.Standby = true // and nothing else, unlike EnterStandby: a copy must be as the record was
		_, err = h.store.Save(ctx, rec, rev)
		if err == nil {
			h.observe(rec)
			return true, nil
		}
		if !errors.Is(err, record.ErrConflict) || conflicts == maxConflicts {
			return false, fmt.Errorf("putting %s into standby: %w", key, err)
		}
		if err := sleep(ctx, rand.N(time.Duration(conflicts+1)*5*time.Millisecond)); err != nil {
			return false, err
		}
	}
}

// observe notes the lease of a record.
func (h *Holder) observe(rec *record.Record) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case rec.Lease == nil || rec.IsTombstone():
		delete(h.seen, rec.Key)
	case h.seen[rec.Key].lease != rec.Lease.ID:
		h.seen[rec.Key] = observation{rec.Lease.ID, time.Now()}
	}
}

// overdue reports whether the holder of a record's lease is gone: this process has seen the
// lease for its whole duration, or no other process can have the store open.
func (h *Holder) overdue(rec *record.Record) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	seen := h.seen[rec.Key]
	return !h.shared || seen.lease == rec.Lease.ID && time.Since(seen.since) >= rec.Lease.Duration
}

// poll is how often a record with a lease is read.
const poll = 50 * time.Millisecond

// Settled returns the record of a connection once no refresh of it is in progress. resolved is
// false if the holder of the lease is gone: whether it redeemed the refresh token is unknown.
// Errors: [record.ErrNotFound] and others of the store.
func (h *Holder) Settled(ctx context.Context, key record.Key) (rec *record.Record, rev record.Revision, resolved bool, err error) {
	for {
		rec, rev, err = h.store.Load(ctx, key)
		if err != nil {
			return nil, 0, false, err
		}
		h.observe(rec)
		if rec.Lease == nil || rec.IsTombstone() {
			return rec, rev, true, nil
		}
		if h.overdue(rec) {
			return rec, rev, false, nil
		}
		if err := sleep(ctx, poll); err != nil {
			return nil, 0, false, fmt.Errorf("waiting for the refresh of %s: %w", key, err)
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
