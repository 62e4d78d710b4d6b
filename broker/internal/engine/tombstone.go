package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/tokenbroker/caddy-token-broker/broker/internal/tracing"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// SaveTombstone saves a deletion, even while an answer for the same connection is pending.
func (e *Engine) SaveTombstone(ctx context.Context, rec *record.Record, rev record.Revision) (record.Revision, error) {
	if err := e.replay(ctx); err != nil {
		return 0, err
	}
	return e.saveNow(ctx, rec, rev)
}

// purge removes a tombstone for good. Stores cannot delete by compare-and-set, and an
// import may come at any time. So the tombstone gets a lease first, which imports respect,
// and the deletion takes at most half of it.
func (e *Engine) purge(ctx context.Context, key record.Key) error {
	lease := &record.Lease{ID: uuid.NewString(), Duration: purgeLease}
	begun := e.instant()
	rec, _, err := e.updateIf(ctx, key, func(rec *record.Record) *record.Record {
		if rec == nil || !rec.IsPurgeable(e.clock.Now()) {
			return nil
		}
		rec.Lease = lease
		return rec
	})
	if err != nil || rec == nil {
		return err
	}
	left := purgeLease/2 - e.instant().Sub(begun)
	if left <= 0 {
		return nil // the next sweep tries again
	}
	ctx, cancel := context.WithTimeout(ctx, left)
	defer cancel()
	return e.deleteNow(ctx, key)
}

// deleteNow deletes the record from the store.
func (e *Engine) deleteNow(ctx context.Context, key record.Key) (err error) {
	ctx, span := e.startStoreSpan(ctx, "delete", key)
	defer func() { tracing.EndSpan(span, err) }()
	s, err := e.Store(ctx)
	if err != nil {
		return err
	}
	return s.Delete(ctx, key)
}

// UpdateUnpurged is [Engine.Update] for a change that may bring a deleted connection back: it
// waits while the tombstone is being purged. If the purging process has died, the wait ends
// when its lease expires.
func (e *Engine) UpdateUnpurged(ctx context.Context, key record.Key, change func(*record.Record) (*record.Record, error)) (*record.Record, record.Revision, error) {
	var observed leaseObserver
	for {
		rec, rev, err := e.Update(ctx, key, func(rec *record.Record) (*record.Record, error) {
			if rec != nil && rec.IsTombstone() && rec.Lease != nil && !observed.overdue(rec.Lease, e.instant()) {
				return nil, errPurging
			}
			return change(rec)
		})
		if !errors.Is(err, errPurging) {
			return rec, rev, err
		}
		if err := e.clock.Sleep(ctx, leasePoll); err != nil {
			return nil, 0, fmt.Errorf("%w: %w", record.ErrStoreUnavailable, err)
		}
	}
}

// purgeLease is how long an import waits for a tombstone that is being purged.
const purgeLease = 10 * time.Second

// errPurging ends an update because the record is a tombstone that is being purged.
var errPurging = errors.New("a tombstone is being purged")
