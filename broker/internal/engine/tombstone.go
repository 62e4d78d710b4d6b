package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// SaveTombstone saves a deletion, even while an answer for the same connection is pending.
func (e *Engine) SaveTombstone(ctx context.Context, rec *record.Record, rev record.Revision) (record.Revision, error) {
	if err := e.replay(ctx); err != nil {
		return 0, err
	}
	return e.saveNow(ctx, rec, rev)
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

// errPurging ends an update because the record is a tombstone that is being purged.
var errPurging = errors.New("a tombstone is being purged")
