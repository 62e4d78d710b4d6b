package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"

	"go.opentelemetry.io/otel/trace"

	"github.com/tokenbroker/caddy-token-broker/broker/guard"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/breaker"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/clock"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/outage"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/pace"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/revocation"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/sharded"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/tracing"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// An Engine keeps the tokens of one store fresh. It knows the connections that are in use,
// and what is in progress for each.
type Engine struct {
	clock     clock.Clock
	cfg       atomic.Pointer[record.Config]
	transport func(allowPrivate bool) http.RoundTripper
	tracing   tracing.Tracer

	storage     storage
	connections connections
	refusals    refusals
	backlog     *backlog
	pace        *pace.Queue
	lifecycle   lifecycle
	revoker     *revocation.Revoker
}

// connections is what this process keeps in memory about connections and applications.
type connections struct {
	refreshers   *sharded.Map[record.Key, Refresher] // at most one for a connection
	applications sync.Map                            // string :: *inFlight
}

// Ready returns nil if the broker can serve and refresh tokens, otherwise an error that
// says what prevents it.
func (e *Engine) Ready(ctx context.Context) error {
	s, err := e.Store(ctx)
	if err != nil {
		return err
	}
	if err := s.Check(ctx); err != nil {
		return err
	}
	if !e.backlog.read.Load() {
		if err := e.adoptJournal(ctx); err != nil {
			return fmt.Errorf("%w: %w", record.ErrStoreUnavailable, err)
		}
	}
	if n := len(e.backlog.list()); n > 0 {
		return fmt.Errorf("%w: %d refreshed tokens could not be saved yet", record.ErrStoreUnavailable, n)
	}
	if err := e.replay(ctx); err != nil {
		return err
	}
	return e.checkJournal(ctx)
}

// Close lets no more refreshes begin, waits until those in progress are finished and
// saved, and closes the store and the journal. If ctx ends first, Close returns its error
// and logs the connections whose new token was not saved.
func (e *Engine) Close(ctx context.Context) error {
	done := e.lifecycle.close()
	e.pace.Close() // their records say that a refresh is due
	select {
	case <-done:
		return e.release()
	case <-ctx.Done():
		e.logUnsaved(ctx)
		go func() { // the process may live on
			<-done
			_ = e.release()
		}()
		return fmt.Errorf("refreshes are still in progress: %w", ctx.Err())
	}
}

// release closes the store and the journal. No work may be in progress.
func (e *Engine) release() error {
	err := e.closeStore()
	if closer, ok := e.storage.journal.(io.Closer); ok {
		err = errors.Join(err, closer.Close())
	}
	return err
}

// logUnsaved logs the connections whose new token was not saved.
func (e *Engine) logUnsaved(ctx context.Context) {
	for _, p := range e.backlog.list() {
		level, msg := slog.LevelWarn, "the store did not take a refreshed token before the shutdown; the journal has it, and the next process on this machine saves it"
		if !p.journaled.Load() {
			level, msg = slog.LevelError, "neither the store nor the journal took a refreshed token before the shutdown; the connection may have to be authorised again"
		}
		e.Config().Log().LogAttrs(ctx, level, msg, slog.String("connection", p.key.String()))
	}
}

// New returns an engine with an empty configuration. It opens the store when it first needs
// it. If clock or transport is nil a default is used.
func New(open func(context.Context) (record.Store, error), journal record.Journal, clk clock.Clock, transport func(allowPrivate bool) http.RoundTripper) *Engine {
	if clk == nil {
		clk = clock.System()
	}
	if transport == nil {
		transport = func(allowPrivate bool) http.RoundTripper { return guard.NewTransport(allowPrivate) }
	}
	ctx, end := context.WithCancel(context.Background())
	e := &Engine{
		clock: clk, transport: transport, backlog: newBacklog(),
		storage:     storage{open: open, journal: journal},
		connections: connections{refreshers: sharded.New[record.Key, Refresher](func(key record.Key) string { return key.Consumer })},
		lifecycle:   lifecycle{ctx: ctx, end: end},
	}
	e.refusals.breakers = breaker.NewSet(clk, background{e})
	e.pace = pace.NewQueue(clk, background{e}.Run)
	log := func() *slog.Logger { return e.Config().Log() }
	e.storage.outage = outage.Reporter{
		Log: log, Failed: "the store cannot be used", Recovered: "the store can be used again",
	}
	e.storage.journalOutage = outage.Reporter{
		Log: log, Failed: "the journal cannot be read; nothing is saved and no refresh begins", Recovered: "the journal can be read again",
	}
	e.revoker = &revocation.Revoker{
		Clock: clk, Tracer: &e.tracing, Transport: transport, Begin: e.lifecycle.begin, Closing: ctx, IsSpared: e.isSpared,
	}
	e.cfg.Store(&record.Config{})
	return e
}

// RevokeGrant revokes the grant of a deleted connection in the background.
func (e *Engine) RevokeGrant(cause context.Context, g revocation.Grant) { e.revoker.Revoke(cause, g) }

// isSpared reports whether a connection has credentials, or was deleted in standby.
func (e *Engine) isSpared(ctx context.Context, key record.Key) (bool, error) {
	rec, _, err := e.Load(ctx, key)
	if errors.Is(err, record.ErrNotFound) {
		return false, nil
	}
	return err == nil && (rec.Credentials != nil || rec.Standby), err
}

// Configure replaces the configuration.
func (e *Engine) Configure(cfg *record.Config) {
	e.cfg.Store(cfg)
	e.refusals.breakers.Reconfigured(cfg)
	e.pace.Reconfigured(cfg)
}

// Config returns the newest configuration.
func (e *Engine) Config() *record.Config { return e.cfg.Load() }

// StartSpan begins a span as a child of the one in ctx.
func (e *Engine) StartSpan(ctx context.Context, name string, opts ...trace.SpanStartOption) (context.Context, trace.Span) {
	return e.tracing.Start(ctx, name, opts...)
}
