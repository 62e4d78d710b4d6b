// Package sweep looks after connections that no caller asks about. From time to time one
// process goes through all records: it removes old tombstones, clears the credentials of
// parked connections when their retention ends, and starts the refreshes that were
// interrupted, that keep a refresh token alive, or that an idle connection needs.
//
// A pass takes a share of what the store can do, goes on behind the position where the pass
// before it was stopped, and gives its lease back when it ends.
package sweep

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/clock"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/storequeue"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/tracing"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

const (
	interval = 10 * time.Minute // between two passes of a process, plus or minus a fifth

	// A pass rests after each record for this many times as long as the store needed for it.
	// So it takes no more than a fifth of one stream of requests.
	restFactor = 4
	minRest    = time.Millisecond // also if the store answers at once: a pass must not take a core
	maxRest    = 10 * time.Second // a lease must not run out meanwhile
)

// Records are the records of the store.
type Records interface {
	Load(ctx context.Context, key record.Key) (*record.Record, record.Revision, error)

	// UpdateIf changes a record by compare-and-set. change gets nil if there is no record, and
	// may return nil to change nothing; UpdateIf then returns nil too.
	UpdateIf(ctx context.Context, key record.Key, change func(*record.Record) *record.Record) (*record.Record, record.Revision, error)

	// Delete removes a tombstone.
	Delete(ctx context.Context, key record.Key) error

	// ListAfter yields the keys behind after, all if it is zero. See [record.ResumableStore].
	ListAfter(ctx context.Context, after record.Key) iter.Seq2[record.Key, error]
}

// Connections are the connections as this process has them in memory.
type Connections interface {
	// Install makes known a record that the sweep has changed. If it has no credentials,
	// earlier revisions are destroyed.
	Install(ctx context.Context, rec *record.Record, rev record.Revision)

	// Refresh begins a refresh in the background. ended is closed when it has ended.
	Refresh(ctx context.Context, key record.Key) (ended <-chan struct{})

	// IsHeldBack reports whether token requests of the connection are held back, because
	// others were refused.
	IsHeldBack(conn *record.Connector, rec *record.Record) bool
}

// A Sweeper sweeps one store. Its exported fields must not change.
type Sweeper struct {
	Records     Records
	Connections Connections
	Clock       clock.Clock
	Tracer      *tracing.Tracer
	Config      func() *record.Config

	// Prepare is called before each pass. A pass does not begin if it fails.
	Prepare func(ctx context.Context) error
	// IsShared reports whether other processes may sweep the same store.
	IsShared func() bool

	observed clock.Watch[string] // the id of the lease that another process has
	vigil    vigil
	idle     idleRefreshes
}

// A pass goes through all records once, or through those behind a position.
type pass struct {
	*Sweeper

	begun   clock.Instant
	lease   *record.Lease // nil: another process has it
	renewed clock.Instant
	resumed bool       // it did not begin with the first record
	after   record.Key // the last record that was looked at

	records    int                  // looked at
	candidates map[connector.ID]int // idle connections that were started although requests are held back
	did        counts
}

// counts are what a pass has done.
type counts struct{ purged, cleared, resumed, refreshed int }

// Run sweeps until ctx is done.
func (s *Sweeper) Run(ctx context.Context) {
	for {
		if s.Clock.Sleep(ctx, interval-interval/5+rand.N(2*interval/5)) != nil {
			return
		}
		if err := s.sweep(ctx); err != nil && ctx.Err() == nil {
			s.Config().Log().LogAttrs(ctx, slog.LevelWarn, "the sweep has stopped; it starts again later",
				slog.String("error", err.Error()))
		}
	}
}

// sweep makes one pass, unless another process is sweeping.
func (s *Sweeper) sweep(ctx context.Context) (err error) {
	ctx, span := s.Tracer.StartRoot(storequeue.With(ctx, storequeue.Idle), context.Background(), "token_broker.sweep")
	defer func() { tracing.EndSpan(span, err) }()
	if err := s.Prepare(ctx); err != nil {
		return err
	}
	p := &pass{Sweeper: s, begun: s.now(), candidates: make(map[connector.ID]int)}
	if err := p.takeLease(ctx); err != nil || p.lease == nil {
		return err
	}
	err = p.run(ctx)
	switch {
	case p.lease == nil:
		return err // another process has taken over
	case err != nil && ctx.Err() == nil && p.records == 0:
		p.after = record.Key{} // a fault right behind the position must not end every pass
	case err == nil:
		p.after = record.Key{}
		p.finish(ctx)
	}
	if givenBack := p.giveBack(ctx); err == nil {
		err = givenBack
	}
	return err
}

// run looks at each record behind p.after.
func (p *pass) run(ctx context.Context) error {
	asked := p.now()
	for key, err := range p.Records.ListAfter(ctx, p.after) {
		if err != nil {
			return err
		}
		if key.Application == record.OwnApplication {
			continue
		}
		if p.now().Sub(p.renewed) > leaseDuration/2 {
			if err := p.renewLease(ctx); err != nil || p.lease == nil {
				return err
			}
		}
		if err := p.look(ctx, key); err != nil {
			return err
		}
		rest := max(minRest, min(restFactor*p.now().Sub(asked), maxRest))
		if err := p.Clock.Sleep(ctx, rest); err != nil {
			return err
		}
		asked = p.now()
	}
	return nil
}

// look does the work that is due for one connection. Its error ends the pass.
func (p *pass) look(ctx context.Context, key record.Key) error {
	err := p.tend(ctx, key)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	p.after = key // also after an error: the next pass must not stop at the same record
	p.records++
	if errors.Is(err, record.ErrStoreUnavailable) {
		return err
	}
	if err != nil {
		p.Config().Log().LogAttrs(ctx, slog.LevelWarn, "the sweep skips a connection",
			slog.String("connection", key.String()), slog.String("error", err.Error()))
	}
	return nil
}

// finish ends a pass that has reached the last record.
func (p *pass) finish(ctx context.Context) {
	if !p.resumed {
		p.vigil.forget(p.begun)
	}
	p.Config().Log().LogAttrs(ctx, slog.LevelInfo, "sweep finished",
		slog.Int("records", p.records), slog.Duration("duration", p.now().Sub(p.begun)), slog.Bool("resumed", p.resumed),
		slog.Int("tombstones_removed", p.did.purged), slog.Int("credentials_cleared", p.did.cleared),
		slog.Int("refreshes_resumed", p.did.resumed), slog.Int("idle_refreshed", p.did.refreshed))
}

func (s *Sweeper) now() clock.Instant { return clock.InstantOf(s.Clock) }
