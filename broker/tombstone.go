package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// saveTombstone is save for a deletion, which a pending answer for the same connection
// does not prevent.
func (b *Engine) saveTombstone(ctx context.Context, rec *record.Record, rev record.Revision) (record.Revision, error) {
	if err := b.replay(ctx); err != nil {
		return 0, err
	}
	return b.saveNow(ctx, rec, rev)
}

// purge removes a tombstone for good. Stores cannot delete by compare-and-set, and an
// import may come at any time. So the tombstone gets a lease first, which imports respect,
// and the deletion takes at most half of it.
func (b *Engine) purge(ctx context.Context, key record.Key) error {
	lease := &record.Lease{ID: uuid.NewString(), Duration: purgeLease}
	begun := b.clock.Now()
	rec, _, err := b.updateIf(ctx, key, func(rec *record.Record) *record.Record {
		if rec == nil || !rec.IsPurgeable(b.clock.Now()) {
			return nil
		}
		rec.Lease = lease
		return rec
	})
	if err != nil || rec == nil {
		return err
	}
	left := purgeLease/2 - b.clock.Now().Sub(begun)
	if left <= 0 {
		return nil // the next sweep tries again
	}
	ctx, cancel := context.WithTimeout(ctx, left)
	defer cancel()
	return b.deleteNow(ctx, key)
}

func (b *Engine) deleteNow(ctx context.Context, key record.Key) (err error) {
	ctx, span := b.startStoreSpan(ctx, "delete", key)
	defer func() { endSpan(span, err) }()
	s, err := b.store(ctx)
	if err != nil {
		return err
	}
	return s.Delete(ctx, key)
}

// updateUnpurged is update for a change that may bring a deleted connection back: it waits
// while the tombstone is being purged. If the process that purges it has died, the wait
// ends with the lease.
func (b *Engine) updateUnpurged(ctx context.Context, key record.Key, change func(*record.Record) (*record.Record, error)) (*record.Record, record.Revision, error) {
	var observed leaseObserver
	for {
		rec, rev, err := b.update(ctx, key, func(rec *record.Record) (*record.Record, error) {
			if rec != nil && rec.IsTombstone() && rec.Lease != nil && !observed.overdue(rec.Lease, b.clock.Now()) {
				return nil, errPurging
			}
			return change(rec)
		})
		if !errors.Is(err, errPurging) {
			return rec, rev, err
		}
		if err := b.clock.Sleep(ctx, leasePoll); err != nil {
			return nil, 0, fmt.Errorf("%w: %w", record.ErrStoreUnavailable, err)
		}
	}
}

// purgeLease is how long an import waits for a tombstone that is being purged.
const purgeLease = 10 * time.Second

// errPurging ends an update because the record is a tombstone that is being purged.
var errPurging = errors.New("a tombstone is being purged")
