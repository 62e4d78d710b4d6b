package engine

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/storequeue"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/tracing"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// The sweep looks after connections that are not in use: it removes tombstones and the
// credentials of parked connections when their time is up, and starts neglected refreshes.
const (
	sweepInterval = 10 * time.Minute      // of each process, plus or minus a fifth
	sweepPace     = 20 * time.Millisecond // between two records
	sweepLease    = 5 * time.Minute       // renewed during the sweep
)

// sweepRegularly sweeps until the broker closes.
func (e *Engine) sweepRegularly() {
	var observed leaseObserver
	for {
		wait := sweepInterval - sweepInterval/5 + rand.N(2*sweepInterval/5)
		if e.clock.Sleep(e.lifecycle.ctx, wait) != nil {
			return
		}
		e.evictIdle()
		if err := e.sweep(e.lifecycle.ctx, &observed); err != nil && e.lifecycle.ctx.Err() == nil {
			e.Config().Log().LogAttrs(e.lifecycle.ctx, slog.LevelWarn, "the sweep has stopped; it starts again later",
				slog.String("error", err.Error()))
		}
	}
}

// sweep looks at every record once, unless another replica is sweeping.
func (e *Engine) sweep(ctx context.Context, observed *leaseObserver) (err error) {
	ctx, span := e.tracing.StartRoot(storequeue.With(ctx, storequeue.Idle), context.Background(), "token_broker.sweep")
	defer func() { tracing.EndSpan(span, err) }()
	if err := e.adoptJournal(ctx); err != nil { // other processes of this machine may have died
		return err
	}
	if e.backlog.pending() {
		if err := e.flush(ctx); err != nil {
			return err
		}
	}
	lease, err := e.leaseSweep(ctx, observed, nil)
	if err != nil || lease == nil {
		return err
	}
	s, err := e.Store(ctx)
	if err != nil {
		return err
	}
	renewed := e.clock.Now()
	for key, err := range s.List(ctx, "", "") {
		if err != nil {
			return err
		}
		if e.clock.Now().Sub(renewed) > sweepLease/2 {
			if lease, err = e.leaseSweep(ctx, observed, lease); err != nil || lease == nil {
				return err
			}
			renewed = e.clock.Now()
		}
		if key.Application == ownApplication {
			continue
		}
		if err := e.sweepRecord(ctx, key); isUnavailable(err) {
			return err
		} else if err != nil {
			e.Config().Log().LogAttrs(ctx, slog.LevelWarn, "the sweep skips a connection",
				slog.String("connection", key.String()), slog.String("error", err.Error()))
		}
		if err := e.clock.Sleep(ctx, sweepPace); err != nil {
			return err
		}
	}
	_, err = e.updateSweepLease(ctx, func(current *record.Lease) (*record.Lease, bool) {
		return nil, current != nil && current.ID == lease.ID
	})
	return err
}

// leaseSweep takes the lease of the sweep, or renews held. It returns nil if another
// replica holds the lease.
func (e *Engine) leaseSweep(ctx context.Context, observed *leaseObserver, held *record.Lease) (*record.Lease, error) {
	lease := &record.Lease{ID: uuid.NewString(), Duration: sweepLease}
	taken, err := e.updateSweepLease(ctx, func(current *record.Lease) (*record.Lease, bool) {
		mine := current != nil && held != nil && current.ID == held.ID
		return lease, current == nil || mine || !e.isShared() || observed.overdue(current, e.clock.Now())
	})
	if err != nil || !taken {
		return nil, err
	}
	return lease, nil
}

// sweepRecord does the work that is due for one connection.
func (e *Engine) sweepRecord(ctx context.Context, key record.Key) error {
	rec, _, err := e.Load(ctx, key)
	if errors.Is(err, record.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	now := e.clock.Now()
	switch {
	case rec.IsTombstone():
		if rec.IsPurgeable(now) {
			return e.purge(ctx, key)
		}
		return nil
	case rec.RetentionEnded(now):
		return e.clearCredentials(ctx, rec)
	}
	if conn := e.Config().Connectors[key.Connector]; conn != nil && rec.IsNeglected(conn, now) {
		return e.revive(ctx, rec, conn)
	}
	return nil
}

// clearCredentials removes the credentials of a connection whose retention has ended, if it
// is still parked with the refresh token in seen.
func (e *Engine) clearCredentials(ctx context.Context, seen *record.Record) error {
	rec, rev, err := e.updateIf(ctx, seen.Key, func(rec *record.Record) *record.Record {
		if rec == nil || !rec.RetentionEnded(e.clock.Now()) || rec.Cycle.Parked != seen.Cycle.Parked {
			return nil
		}
		rec.Credentials, rec.Lease = nil, nil
		rec.Generation++
		rec.UpdatedAt = e.clock.Now()
		return rec
	})
	if err != nil || rec == nil {
		return err
	}
	e.Refresher(seen.Key).Install(rec, rev, e.clock.Now())
	e.DestroyEarlier(ctx, seen.Key, rev)
	e.Config().Log().LogAttrs(ctx, slog.LevelWarn, "credentials cleared: the connection could not be refreshed for the retention time",
		slog.String("connection", seen.Key.String()))
	return nil
}

// revive starts a refresh of a neglected connection. It first marks the record as queued,
// because the token alone may not be due for a refresh.
func (e *Engine) revive(ctx context.Context, seen *record.Record, conn *record.Connector) error {
	if !seen.Cycle.Queued {
		rec, rev, err := e.updateIf(ctx, seen.Key, func(rec *record.Record) *record.Record {
			if rec == nil || rec.IsTombstone() || !rec.IsNeglected(conn, e.clock.Now()) {
				return nil
			}
			rec.Cycle.Queued = true
			return rec
		})
		if err != nil || rec == nil {
			return err
		}
		e.Refresher(seen.Key).Install(rec, rev, e.clock.Now())
	}
	e.Refresher(seen.Key).Start(ctx)
	return nil
}

// ownApplication is the application of the broker's own records: the lease of the sweep, and
// the announcements of refused clients. Replicas share these, and stores hold only records.
// No caller can send the control character.
const ownApplication = "\x01broker"

// sweepKey is the key of the record that holds the lease of the sweep.
var sweepKey = record.Key{Application: ownApplication, Consumer: "sweep", Connector: connector.ID{UnifiedAPI: "broker", ServiceID: "sweep"}}

// updateSweepLease replaces the lease of the sweep if change returns true, and reports
// whether it did. change gets the current lease, or nil.
func (e *Engine) updateSweepLease(ctx context.Context, change func(*record.Lease) (*record.Lease, bool)) (bool, error) {
	rec, _, err := e.updateIf(ctx, sweepKey, func(rec *record.Record) *record.Record {
		if rec == nil {
			rec = &record.Record{Key: sweepKey, CreatedAt: e.clock.Now()}
		}
		next, changed := change(rec.Lease)
		if !changed {
			return nil
		}
		rec.Lease = next
		return rec
	})
	return rec != nil, err
}
