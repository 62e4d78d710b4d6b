// Package standby waits for the token request of a connection that was put into standby: until
// its outcome is stored, the system that goes on refreshing must not have the refresh token.
package standby

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/internal/clock"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// poll is how often the record is read while its lease is awaited.
const poll = 500 * time.Millisecond

const (
	// maxSights is how many leases are remembered before old ones are forgotten.
	maxSights = 1024
	// sightAge is how long a lease is remembered that was not seen again.
	sightAge = 10 * time.Minute
)

// Connections are the connections of the store.
type Connections interface {
	Load(ctx context.Context, key record.Key) (*record.Record, record.Revision, error)

	// Update changes a record by compare-and-set. If change fails, nothing is saved.
	Update(ctx context.Context, key record.Key, change func(*record.Record) (*record.Record, error)) (*record.Record, record.Revision, error)

	// IsRefreshing reports whether this process has a refresh of the connection in progress.
	IsRefreshing(key record.Key) bool

	// IsShared reports whether other processes may write to the store.
	IsShared() bool
}

// A Waiter waits for leases of connections in standby. New leases are not taken, since each is
// saved by compare-and-set on a record that is not in standby. Connections and Clock must not
// change.
type Waiter struct {
	Connections Connections
	Clock       clock.Clock

	mu     sync.Mutex
	sights map[record.Key]*sight // guarded by mu; leases whose end was awaited in vain so far
}

// A sight is a lease that was seen. It outlives the request of a caller, which may have less
// time than the lease lasts.
type sight struct {
	lease  clock.Watch[string] // its id
	seenAt clock.Instant
}

// Wait waits until the lease of a record that was put into standby is released. If its holder is
// gone, Wait removes the lease when it has expired. Wait returns [record.ErrRefreshing] if ctx
// ends first.
func (w *Waiter) Wait(ctx context.Context, rec *record.Record) error {
	for {
		if !rec.Standby || rec.IsTombstone() || rec.Lease == nil {
			w.forget(rec.Key)
			return nil
		}
		if w.isOver(rec) {
			return w.abandon(ctx, rec)
		}
		if w.Clock.Sleep(ctx, poll) != nil {
			return fmt.Errorf("%s: %w", rec.Key, record.ErrRefreshing)
		}
		next, _, err := w.Connections.Load(ctx, rec.Key)
		switch {
		case errors.Is(err, record.ErrNotFound):
			w.forget(rec.Key)
			return nil
		case err != nil && ctx.Err() != nil:
			return fmt.Errorf("%s: %w", rec.Key, record.ErrRefreshing)
		case err != nil:
			w.forget(rec.Key) // as in the engine, a failed read interrupts the observation
			return err
		}
		rec = next
	}
}

// isOver reports whether the request of the record's lease has ended, although the lease is still
// there.
func (w *Waiter) isOver(rec *record.Record) bool {
	now := clock.InstantOf(w.Clock)
	w.mu.Lock()
	s := w.sights[rec.Key]
	if s == nil {
		w.prune(now)
		s = &sight{}
		w.sights[rec.Key] = s
	}
	s.seenAt = now
	seen := s.lease.See(rec.Lease.ID, now)
	w.mu.Unlock()
	if w.Connections.IsRefreshing(rec.Key) {
		return false
	}
	// Only an earlier process can have written a lease to a store that is not shared.
	return !w.Connections.IsShared() || seen >= rec.Lease.Duration
}

// errReleased ends an update because the lease is gone.
var errReleased = errors.New("the lease was released")

// abandon removes a lease whose holder is gone.
func (w *Waiter) abandon(ctx context.Context, seen *record.Record) error {
	_, _, err := w.Connections.Update(ctx, seen.Key, func(rec *record.Record) (*record.Record, error) {
		if rec == nil || rec.IsTombstone() || !rec.Standby || !rec.Holds(seen.Lease) {
			return nil, errReleased
		}
		rec.AbandonLease()
		return rec, nil
	})
	if err != nil && !errors.Is(err, errReleased) {
		return err
	}
	w.forget(seen.Key)
	return nil
}

func (w *Waiter) forget(key record.Key) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.sights, key)
}

// prune makes room for a sight. The caller holds mu.
func (w *Waiter) prune(now clock.Instant) {
	if w.sights == nil {
		w.sights = make(map[record.Key]*sight)
	}
	if len(w.sights) < maxSights {
		return
	}
	for key, s := range w.sights {
		if now.Sub(s.seenAt) > sightAge {
			delete(w.sights, key)
		}
	}
}
