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

// CreateOrUpdate is [Engine.Update] for a change that may create the record of r's connection, or
// bring it back: it waits while a tombstone is being purged. If the purging process has died, the
// wait ends when its lease expires.
//
// A record that is probably new is not looked for first. It counts as new if this process does
// not know the connection, and the last one of that kind was new: what is imported by the
// thousand is nearly always all new, or all there already.
func (e *Engine) CreateOrUpdate(ctx context.Context, r *Refresher, change func(*record.Record) (*record.Record, error)) (*record.Record, record.Revision, error) {
	isKnown := r.memory.snap.Load() != nil
	if !isKnown && !e.storage.foundLast.Load() {
		if rec, err := change(nil); err == nil { // an error may concern new records only
			rev, err := e.save(ctx, rec, 0)
			if !errors.Is(err, record.ErrConflict) {
				return rec, rev, err
			}
		}
	}
	var observed leaseObserver
	for {
		rec, rev, err := e.Update(ctx, r.Key, func(rec *record.Record) (*record.Record, error) {
			if !isKnown {
				e.storage.foundLast.Store(rec != nil)
			}
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
