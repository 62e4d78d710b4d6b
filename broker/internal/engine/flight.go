package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/tokenbroker/caddy-token-broker/broker/internal/clock"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/pace"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/storequeue"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/tracing"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// A flight is one refresh, shared by all callers that ask for one while it lasts.
type flight struct {
	ticket *storequeue.Ticket
	place  *pace.Ticket
	begun  bool          // guarded by the refresher's mu; false: it waits for the budget of its token endpoint
	cause  trace.Span    // guarded by the refresher's mu until begun; what started the refresh
	done   chan struct{} // closed when snap and err are set
	snap   *Snapshot
	err    error
}

// land ends the flight for its waiters.
func (f *flight) land(snap *Snapshot, err error) {
	f.snap, f.err = snap, err
	close(f.done)
}

// Start begins a refresh that no caller waits for, unless one is in progress. It waits until
// the budget of the token endpoint allows it; the one with the lowest rank goes first. The
// refresh is linked to the span in cause, whose end does not matter. ended is closed when the
// refresh has ended, or will not begin.
func (r *Refresher) Start(cause context.Context, rank pace.Rank) (ended <-chan struct{}) {
	now := r.engine.now()
	r = r.lock()
	defer r.mu.Unlock()
	f := r.attempts.flight
	switch {
	case f == nil:
		f = r.enter(cause, now, rank)
	case !f.begun:
		f.place.Raise(rank)
	}
	f.ticket.Keep()
	return f.done
}

// enter returns a flight that begins when the budget allows it. The caller holds mu.
func (r *Refresher) enter(cause context.Context, now clock.Moment, rank pace.Rank) *flight {
	f := r.newFlight(cause)
	if f.place, f.begun = r.engine.pace.Enter(now, r.request(), rank, r.memory.expiry(), func() { r.begin(f) }); f.begun {
		r.takeOff(f)
	}
	return f
}

// begin begins a refresh that has waited for the budget, unless a caller has begun it.
func (r *Refresher) begin(f *flight) {
	r.mu.Lock() // it is not evicted while a refresh waits
	defer r.mu.Unlock()
	if !f.begun {
		r.takeOff(f)
	}
}

// start begins a refresh at once, unless one is in progress, and returns it. The refresh is
// linked to the span in cause; it goes on if cause is cancelled.
func (r *Refresher) start(cause context.Context) *flight {
	now := r.engine.instant()
	r = r.lock()
	defer r.mu.Unlock()
	f := r.attempts.flight
	switch {
	case f == nil:
		f = r.newFlight(cause)
		f.place = r.engine.pace.Begin(now, r.request())
	case f.begun:
		return f
	default:
		f.cause = trace.SpanFromContext(cause)
		f.place.Hurry(now)
	}
	r.takeOff(f)
	return f
}

// newFlight returns a flight that has not begun. The caller holds mu.
func (r *Refresher) newFlight(cause context.Context) *flight {
	r.attempts.flight = &flight{
		done: make(chan struct{}), cause: trace.SpanFromContext(cause),
		ticket: storequeue.NewTicket(storequeue.Refresh, storequeue.Ahead, r.memory.expiry()),
	}
	return r.attempts.flight
}

// request returns what the budget of a refresh depends on.
func (r *Refresher) request() pace.Request {
	req := pace.Request{Connector: r.engine.Config().Connectors[r.Key.Connector]}
	if snap := r.memory.snap.Load(); snap != nil {
		req.Record = snap.Record
	}
	return req
}

// takeOff begins a flight. The caller holds mu.
func (r *Refresher) takeOff(f *flight) {
	f.begun = true
	if !r.engine.lifecycle.begin(func() { r.fly(f) }) {
		r.attempts.flight = nil
		f.land(nil, record.ErrShuttingDown) // and no other one will need the budget
	}
}

// fly runs a flight and plans the next attempt if this one failed.
func (r *Refresher) fly(f *flight) {
	cause := trace.ContextWithSpan(context.Background(), f.cause)
	ctx, span := r.engine.tracing.StartRoot(context.Background(), cause, "token_broker.refresh",
		trace.WithAttributes(tracing.ConnectorAttribute(r.Key)))
	attempt := &attempt{refresher: r, flight: f}
	snap, err := attempt.run(storequeue.WithTicket(ctx, f.ticket))
	tracing.EndSpan(span, err)

	r.mu.Lock()
	r.attempts.flight = nil
	r.rejections.refresh.clear()
	if !isUnavailable(err) {
		r.attempts.outages = 0
	}
	r.mu.Unlock()
	if !attempt.landed {
		attempt.land(snap, err)
	}
	r.engine.refusals.breakers.EndTurn(r.Key)
	// Refreshes that fail because the store is down count too: it gets no herd either.
	f.place.End(attempt.sends || isUnavailable(err))
	r.planRetry(cause, snap, err)
}

// storeRetry is how long a refresh waits before it tries an unavailable store again.
const storeRetry = 5 * time.Second

// maxStoreRetry bounds that delay, which grows while the store is unavailable. Otherwise
// every connection that is due for a refresh would poll the store every few seconds.
const maxStoreRetry = time.Minute

// outageWait returns how long to wait for the store after one more failure.
func (r *Refresher) outageWait() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	wait := min(storeRetry<<min(r.attempts.outages, 8), maxStoreRetry)
	r.attempts.outages++
	return wait - rand.N(wait/4)
}

// planRetry plans another refresh if the outcome of the last one calls for it and none is
// planned for an earlier time.
func (r *Refresher) planRetry(cause context.Context, snap *Snapshot, err error) {
	e := r.engine
	var wait time.Duration
	var failed *record.TokenError
	switch {
	case err == nil:
		// The refresh may still have failed: a token that is still valid is served.
		if cycle := snap.Record.Cycle; snap.Record.Standby || cycle.Phase == record.PhaseFailed && !cycle.NeedsAuth || cycle.RetryAt.IsZero() {
			return
		}
		wait = r.waitLeft(snap.Record, e.now())
	case errors.As(err, &failed):
		if failed.Parked && !failed.Hopeless || failed.GivenUp || failed.RetryAt.IsZero() {
			return
		}
		wait = min(failed.RetryAt.Sub(e.clock.Now()), record.MaxWait)
	case !isUnavailable(err):
		return
	default:
		wait = r.outageWait()
	}
	if wait <= 0 {
		wait = storeRetry // a paused connector or another replica's lease prevented the refresh
	}
	now := e.instant()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.attempts.retry.SetAhead(e.clock, background{e}.Run, &r.mu, now, now.Add(wait), func() { r.Start(cause, pace.Again) })
}

// An attempt is the state of one run of a flight.
type attempt struct {
	refresher *Refresher
	flight    *flight
	cfg       *record.Config    // when the record was read last
	conn      *record.Connector // from cfg
	landed    bool              // the flight's waiters were released
	loads     bool              // the record must be loaded, however new the snapshot is
	sends     bool              // a token request was sent
}

// land releases the flight's waiters.
func (a *attempt) land(snap *Snapshot, err error) {
	a.landed = true
	a.flight.land(snap, err)
}

// run makes sure that the connection has a token that is not due for a refresh. It reads
// the record inside the flight, so it adopts a token that another process has saved.
func (a *attempt) run(ctx context.Context) (*Snapshot, error) {
	if err := a.configure(); err != nil {
		return nil, err
	}
	const tries = 3 // while others change the record
	for range tries {
		snap, err := a.once(ctx)
		if !errors.Is(err, errSuperseded) {
			return snap, err
		}
	}
	return a.refresher.adopt(ctx)
}

// configure makes the attempt use the newest configuration.
func (a *attempt) configure() (err error) {
	a.cfg = a.refresher.engine.Config()
	a.conn, err = a.cfg.ConnectorOf(a.refresher.Key)
	return err
}

// once makes one try with the record as it is now. Its error is errSuperseded if the
// credentials were replaced during the try.
func (a *attempt) once(ctx context.Context) (*Snapshot, error) {
	held, err := a.acquire(ctx)
	if err != nil {
		return nil, err
	}
	if held.lease == nil {
		// Nothing to do: calls need not start another flight soon.
		a.refresher.attempts.idleSince.Store(int64(a.refresher.engine.instant()))
		return held.snap, nil
	}
	ctx = storequeue.With(ctx, storequeue.Settle)
	sentAt := a.refresher.engine.clock.Now()
	if held.isLate(a.refresher.engine.instant(), a.cfg.RequestTimeout()) {
		a.giveBack(ctx, held)
		a.refresher.engine.refusals.breakers.CancelTurn(a.refresher.Key)
		return nil, fmt.Errorf("%w: saving the lease took too long", record.ErrStoreUnavailable)
	}
	a.sends = true
	answer := a.redeem(ctx, held, sentAt)
	level, msg := slog.LevelDebug, "token endpoint answered"
	if answer.Class == record.ClassAmbiguous {
		level, msg = slog.LevelWarn, "the token endpoint gave no usable answer; the refresh token may have been spent"
	}
	a.cfg.Log().LogAttrs(ctx, level, msg,
		slog.String("connection", a.refresher.Key.String()), slog.String("class", string(answer.Class)),
		slog.String("code", answer.Code), slog.String("detail", answer.Detail), slog.Int("status", answer.Status))
	if answer.Class == "" || !answer.RefreshToken.IsZero() {
		return a.saveToken(ctx, held, answer)
	}
	return a.saveFailure(ctx, held, answer)
}

// due decides what to do for a record that was just read: refresh (true), nothing (false),
// or fail because a refresh cannot help (an error).
func (a *attempt) due(ctx context.Context, rec *record.Record, snap *Snapshot, now clock.Moment) (bool, error) {
	switch {
	case rec.IsTombstone():
		return false, record.ConnectionNotFound(a.refresher.Key)
	case !rec.Enabled:
		return false, record.ErrConnectionDisabled
	case rec.Standby:
		return false, snap.standbyError(now)
	case rec.IsParked() && !a.refresher.isUnparked(rec.Cycle.Parked):
		return false, a.refresher.tokenError(rec, now)
	}
	if rec.Credentials == nil && !a.conn.FetchesTokens() {
		return false, &record.TokenError{Key: a.refresher.Key, Class: record.ClassPermanent, Code: record.CodeNoCredentials, Parked: true, FailedAt: rec.Cycle.FailedAt}
	}
	expired := rec.Credentials == nil || rec.Credentials.AccessToken.IsZero() || snap.expired(now)
	if !a.conn.CanRefresh(rec.Credentials) {
		if expired {
			return false, a.refresher.reject(ctx, a.cfg, a.conn, rec.Generation, record.CodeNoRefreshToken)
		}
		return false, nil
	}
	isBeingReplaced := rec.Lease != nil && a.refresher.isRejected(rec.Generation)
	if !expired && !snap.wantsRefresh(now) && !a.refresher.isForced(rec.Generation) && !isBeingReplaced {
		return false, nil
	}
	if _, err := tokenRequest(a.conn, rec, now.Wall); err != nil {
		return false, &record.TokenError{Key: a.refresher.Key, Class: record.ClassConfiguration, Code: record.CodeMissingSettings, BadSettings: true, Err: err}
	}
	if a.refresher.waitLeft(rec, now) > 0 && !a.refresher.ignoresWait(rec) {
		if !expired {
			return false, nil
		}
		return false, a.refresher.tokenError(rec, now)
	}
	if err := a.refresher.engine.refusals.breakers.Hold(a.conn, rec, false); err != nil {
		if !expired {
			return false, nil
		}
		return false, err
	}
	return true, nil
}
