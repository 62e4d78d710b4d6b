package engine

import (
	"context"
	"iter"

	"github.com/tokenbroker/caddy-token-broker/broker/internal/pace"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/sweep"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/tracing"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// newSweeper returns the sweeper of the engine's store.
func (e *Engine) newSweeper() *sweep.Sweeper {
	return &sweep.Sweeper{
		Records: sweptRecords{e}, Connections: sweptConnections{e},
		Clock: e.clock, Tracer: &e.tracing, Config: e.Config, Prepare: e.prepareSweep, IsShared: e.IsShared,
	}
}

// prepareSweep does what is due from time to time in each process.
func (e *Engine) prepareSweep(ctx context.Context) error {
	e.evictIdle()
	if err := e.adoptJournal(ctx); err != nil { // other processes of this machine may have died
		return err
	}
	if !e.backlog.pending() {
		return nil
	}
	return e.flush(ctx)
}

// sweptRecords are the records, as the sweep needs them.
type sweptRecords struct{ *Engine }

// UpdateIf implements [sweep.Records].
func (s sweptRecords) UpdateIf(ctx context.Context, key record.Key, change func(*record.Record) *record.Record) (*record.Record, record.Revision, error) {
	return s.updateIf(ctx, key, change)
}

// Delete implements [sweep.Records].
func (s sweptRecords) Delete(ctx context.Context, key record.Key) (err error) {
	ctx, span := s.startStoreSpan(ctx, "delete", key)
	defer func() { tracing.EndSpan(span, err) }()
	store, err := s.Store(ctx)
	if err != nil {
		return err
	}
	return store.Delete(ctx, key)
}

// ListAfter implements [sweep.Records].
func (s sweptRecords) ListAfter(ctx context.Context, after record.Key) iter.Seq2[record.Key, error] {
	return func(yield func(record.Key, error) bool) {
		store, err := s.Store(ctx)
		if err != nil {
			yield(record.Key{}, err)
			return
		}
		store.ListAfter(ctx, after)(yield)
	}
}

// sweptConnections are the connections, as the sweep needs them.
type sweptConnections struct{ engine *Engine }

// Install implements [sweep.Connections].
func (s sweptConnections) Install(ctx context.Context, rec *record.Record, rev record.Revision) {
	s.engine.Refresher(rec.Key).Install(rec, rev)
	if rec.Credentials == nil {
		s.engine.DestroyEarlier(ctx, rec.Key, rev)
	}
}

// Refresh implements [sweep.Connections].
func (s sweptConnections) Refresh(cause context.Context, key record.Key) (ended <-chan struct{}) {
	return s.engine.Refresher(key).Start(cause, pace.Unused)
}

// IsHeldBack implements [sweep.Connections].
func (s sweptConnections) IsHeldBack(conn *record.Connector, rec *record.Record) bool {
	return s.engine.refusals.breakers.Check(conn, rec) != nil
}
