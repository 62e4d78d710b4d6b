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

	"github.com/tokenbroker/caddy-token-broker/broker/internal/clock"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// A Holder holds the connections of one store in standby.
type Holder struct {
	store  record.Store
	shared bool

	clock clock.Clock

	mu   sync.Mutex
	seen map[record.Key]*clock.Watch[string] // guarded by mu; the ids of the leases that are still held
}

// New returns a holder for a store.
func New(store record.Store) *Holder {
	h := &Holder{store: store, shared: true, clock: clock.System(), seen: make(map[record.Key]*clock.Watch[string])}
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
		if err := h.clock.Sleep(ctx, rand.N(time.Duration(conflicts+1)*5*time.Millisecond)); err != nil {
			return false, err
		}
	}
}

// observe notes the lease of a record. It reports whether its holder is gone: this process has
// seen the lease for its whole duration, or no other process can have the store open.
func (h *Holder) observe(rec *record.Record) (gone bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if rec.Lease == nil || rec.IsTombstone() {
		delete(h.seen, rec.Key)
		return false
	}
	watch := h.seen[rec.Key]
	if watch == nil {
		watch = &clock.Watch[string]{}
		h.seen[rec.Key] = watch
	}
	return watch.See(rec.Lease.ID, clock.InstantOf(h.clock)) >= rec.Lease.Duration || !h.shared
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
		gone := h.observe(rec)
		if rec.Lease == nil || rec.IsTombstone() {
			return rec, rev, true, nil
		}
		if gone {
			return rec, rev, false, nil
		}
		if err := h.clock.Sleep(ctx, poll); err != nil {
			return nil, 0, false, fmt.Errorf("waiting for the refresh of %s: %w", key, err)
		}
	}
}
