package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/singleflight"

	"github.com/tokenbroker/caddy-token-broker/broker/internal/outage"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/storequeue"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/tracing"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// storage is the store, opened at first use, and the journal beside it.
type storage struct {
	open    func(context.Context) (record.Store, error)
	opened  atomic.Pointer[storequeue.Store] // nil until the store has been opened
	opening singleflight.Group
	journal record.Journal // may be nil

	foundLast     atomic.Bool     // the last record that may have been new was not, see CreateOrUpdate
	outage        outage.Reporter // of the store
	journalOutage outage.Reporter
	rolledBack    atomic.Uint64 // connections of which the store had older credentials
}

// maxConflicts is how many conflicts with other writers one change survives.
const maxConflicts = 50

// Load reads the record of key from the store.
func (e *Engine) Load(ctx context.Context, key record.Key) (rec *record.Record, rev record.Revision, err error) {
	ctx, span := e.startStoreSpan(ctx, "load", key)
	defer func() {
		if errors.Is(err, record.ErrNotFound) {
			span.SetAttributes(attribute.Bool("token_broker.store.found", false))
			span.End()
			return
		}
		tracing.EndSpan(span, err)
	}()
	s, err := e.Store(ctx)
	if err != nil {
		return nil, 0, err
	}
	return s.Load(ctx, key)
}

// save replaces revision rev of a record with rec, after saving the backlog. While an answer
// for the same connection is pending, save fails.
func (e *Engine) save(ctx context.Context, rec *record.Record, rev record.Revision) (record.Revision, error) {
	if err := e.replay(ctx); err != nil {
		return 0, err
	}
	if e.backlog.holds(rec.Key) {
		return 0, fmt.Errorf("%w for %s: a refreshed token of it is still waiting to be saved", record.ErrStoreUnavailable, rec.Key)
	}
	return e.saveNow(ctx, rec, rev)
}

// saveNow saves without the backlog.
func (e *Engine) saveNow(ctx context.Context, rec *record.Record, rev record.Revision) (_ record.Revision, err error) {
	ctx, span := e.startStoreSpan(ctx, "save", rec.Key)
	defer func() { tracing.EndSpan(span, err) }()
	s, err := e.Store(ctx)
	if err != nil {
		return 0, err
	}
	return s.Save(ctx, rec, rev)
}

func (e *Engine) startStoreSpan(ctx context.Context, operation string, key record.Key) (context.Context, trace.Span) {
	return e.tracing.Start(ctx, "token_broker.store."+operation,
		trace.WithSpanKind(trace.SpanKindClient),
		trace.WithAttributes(tracing.ConnectorAttribute(key), attribute.String("db.operation.name", operation)))
}

// Update loads the record of key, changes it and saves it, and repeats that after a
// conflict with another writer. change gets nil if the record does not exist, and may be
// called several times. If it returns an error, nothing is saved.
func (e *Engine) Update(ctx context.Context, key record.Key, change func(*record.Record) (*record.Record, error)) (*record.Record, record.Revision, error) {
	return e.UpdateWith(ctx, key, e.save, change)
}

// updateIf is [Engine.Update] for a change that may not be needed. change then returns nil, and so
// does updateIf.
func (e *Engine) updateIf(ctx context.Context, key record.Key, change func(*record.Record) *record.Record) (*record.Record, record.Revision, error) {
	rec, rev, err := e.Update(ctx, key, func(rec *record.Record) (*record.Record, error) {
		next := change(rec)
		if next == nil {
			return nil, errSuperseded
		}
		return next, nil
	})
	if errors.Is(err, errSuperseded) {
		return nil, 0, nil
	}
	return rec, rev, err
}

// A saveFunc saves a record, such as [Engine.save].
type saveFunc func(context.Context, *record.Record, record.Revision) (record.Revision, error)

// UpdateWith is [Engine.Update] with another way to save.
func (e *Engine) UpdateWith(ctx context.Context, key record.Key, save saveFunc, change func(*record.Record) (*record.Record, error)) (*record.Record, record.Revision, error) {
	return e.updateSeen(ctx, key, nil, 0, save, change)
}

// updateSeen is [Engine.UpdateWith] for a caller that knows revision rev of the record. If
// that is still the latest, the record is not loaded. seen may be nil.
func (e *Engine) updateSeen(ctx context.Context, key record.Key, seen *record.Record, rev record.Revision, save saveFunc, change func(*record.Record) (*record.Record, error)) (*record.Record, record.Revision, error) {
	for conflicts := 0; ; conflicts++ {
		var rec *record.Record
		if conflicts == 0 && seen != nil {
			rec = seen.Clone()
		} else {
			var err error
			rec, rev, err = e.Load(ctx, key)
			if errors.Is(err, record.ErrNotFound) {
				rec, rev = nil, 0
			} else if err != nil {
				return nil, 0, err
			}
		}
		next, err := change(rec)
		if err != nil {
			return nil, 0, err
		}
		saved, err := save(storequeue.AtLeast(ctx, storequeue.Resume), next, rev)
		if err == nil {
			return next, saved, nil
		}
		if !errors.Is(err, record.ErrConflict) {
			return nil, 0, err
		}
		if conflicts == maxConflicts {
			return nil, 0, fmt.Errorf("%w: %s was changed by others %d times in a row", record.ErrStoreUnavailable, key, conflicts)
		}
		if conflicts == 0 && seen != nil {
			continue
		}
		if err := e.clock.Sleep(ctx, rand.N(time.Duration(conflicts+1)*5*time.Millisecond)); err != nil {
			return nil, 0, fmt.Errorf("%w: %w", record.ErrStoreUnavailable, err)
		}
	}
}

// DestroyEarlier destroys, in the background, the revisions before rev that the store still
// has. If that fails, the next call destroys them too. Call it when new credentials were
// saved.
func (e *Engine) DestroyEarlier(cause context.Context, key record.Key, rev record.Revision) {
	if s := e.storage.opened.Load(); rev <= 1 || s != nil && !s.KeepsEarlier() {
		return
	}
	e.lifecycle.begin(func() {
		ctx, span := e.tracing.StartRoot(context.Background(), cause, "token_broker.store.destroy_earlier",
			trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(tracing.ConnectorAttribute(key)))
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		s, err := e.Store(ctx)
		if err == nil {
			err = s.DestroyEarlier(ctx, key, rev)
		}
		if err != nil {
			e.Config().Log().LogAttrs(ctx, slog.LevelWarn, "replaced credentials could not be destroyed in the store yet",
				slog.String("connection", key.String()), slog.String("error", err.Error()))
		}
		tracing.EndSpan(span, err)
	})
}

// destroyRedeemed is [Engine.DestroyEarlier] after a refresh. The store may leave it to a
// later one, since the refresh token in earlier revisions is usually spent.
func (e *Engine) destroyRedeemed(cause context.Context, key record.Key, rev record.Revision) {
	if s := e.storage.opened.Load(); s == nil || !s.KeepsFew(key, rev) {
		e.DestroyEarlier(cause, key, rev)
	}
}

// openTimeout is the timeout for opening the store, and for background work that only uses
// the store.
const openTimeout = 15 * time.Second

// Store returns the store, and opens it if necessary.
func (e *Engine) Store(ctx context.Context) (*storequeue.Store, error) {
	if s := e.storage.opened.Load(); s != nil {
		return s, nil
	}
	opening := e.storage.opening.DoChan("", func() (any, error) {
		if s := e.storage.opened.Load(); s != nil {
			return s, nil
		}
		if e.lifecycle.ctx.Err() != nil {
			return nil, record.ErrShuttingDown
		}
		// Not the caller's context: others wait for the same opening.
		ctx, cancel := context.WithTimeout(e.lifecycle.ctx, openTimeout)
		defer cancel()
		opened, err := e.storage.open(ctx)
		e.storage.outage.Note(ctx, err)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", record.ErrStoreUnavailable, err)
		}
		s := storequeue.New(opened, e.logOverload, e.storage.noteUse)
		e.storage.opened.Store(s)
		if e.lifecycle.ctx.Err() != nil {
			return nil, errors.Join(record.ErrShuttingDown, e.closeStore())
		}
		e.Start()
		e.lifecycle.begin(func() { e.newSweeper().Run(e.lifecycle.ctx) })
		return s, nil
	})
	select {
	case res := <-opening:
		s, _ := res.Val.(*storequeue.Store)
		return s, res.Err
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: it is still being opened: %w", record.ErrStoreUnavailable, ctx.Err())
	}
}

func (e *Engine) closeStore() error {
	if s := e.storage.opened.Swap(nil); s != nil {
		return s.Close()
	}
	return nil
}

// logOverload logs that the store has become overloaded, or is no longer.
func (e *Engine) logOverload(overloaded bool) {
	level, msg := slog.LevelWarn, "the store is overloaded; refreshes wait for it"
	if !overloaded {
		level, msg = slog.LevelInfo, "the store is no longer overloaded"
	}
	e.Config().Log().LogAttrs(context.Background(), level, msg)
}

// noteUse notes the result of a request for operators. A damaged record tells nothing of the
// rest of the store, which reports it by itself.
func (s *storage) noteUse(err error) {
	switch {
	case !isUnavailable(err):
		s.outage.Note(context.Background(), nil)
	case !errors.Is(err, record.ErrDamaged):
		s.outage.Note(context.Background(), err)
	}
}

// isUnavailable reports whether err is [record.ErrStoreUnavailable].
func isUnavailable(err error) bool { return errors.Is(err, record.ErrStoreUnavailable) }

// IsShared reports whether other processes may write to the store.
func (e *Engine) IsShared() bool {
	s := e.storage.opened.Load()
	return s == nil || s.Shared()
}
