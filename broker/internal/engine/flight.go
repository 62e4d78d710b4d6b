package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// A flight is one refresh, for all callers that want one meanwhile.
type flight struct {
	done chan struct{} // closed when snap and err are set
	snap *Snapshot
	err  error
}

func (f *flight) land(snap *Snapshot, err error) {
	f.snap, f.err = snap, err
	close(f.done)
}

// Start begins a refresh, unless one is under way, and returns it. The span in
// cause is what the refresh is linked to; cause's end does not matter.
func (r *Refresher) Start(cause context.Context) *flight {
	r = r.lock()
	defer r.mu.Unlock()
	if r.attempts.flight != nil {
		return r.attempts.flight
	}
	f := &flight{done: make(chan struct{})}
	cause = trace.ContextWithSpan(context.Background(), trace.SpanFromContext(cause))
	if !r.engine.lifecycle.begin(func() { r.fly(cause, f) }) {
		f.land(nil, record.ErrShuttingDown)
		return f
	}
	r.attempts.flight = f
	return f
}

// fly carries out a flight and plans the next attempt if this one failed.
func (r *Refresher) fly(cause context.Context, f *flight) {
	ctx, span := r.engine.tracing.startRoot(context.Background(), cause, "token_broker.refresh",
		trace.WithAttributes(ConnectorAttribute(r.Key)))
	attempt := &attempt{refresher: r, flight: f, cfg: r.engine.Config()}
	snap, err := attempt.run(ctx)
	EndSpan(span, err)

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
	r.planRetry(cause, snap, err)
}

// storeRetry is how long a refresh waits for a store that does not answer.
const storeRetry = 5 * time.Second

// maxStoreRetry bounds what becomes of that while the store goes on not answering: all
// that could not be refreshed would else ask for it every few seconds.
const maxStoreRetry = time.Minute

// outageWait returns how long to wait for the store this time.
func (r *Refresher) outageWait() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	wait := min(storeRetry<<min(r.attempts.outages, 8), maxStoreRetry)
	r.attempts.outages++
	return wait - rand.N(wait/4)
}

// planRetry starts another refresh when the outcome of the last one says that it
// makes sense, if none is planned yet.
func (r *Refresher) planRetry(cause context.Context, snap *Snapshot, err error) {
	e := r.engine
	wait := storeRetry
	var failed *record.TokenError
	switch {
	case err == nil:
		// It may have failed even so: a token that is valid still is served.
		if snap.Record.Cycle.Phase != record.PhasePending || snap.Record.Cycle.RetryAt.IsZero() {
			return
		}
		wait = snap.Record.Cycle.RetryAt.Sub(e.clock.Now())
	case errors.As(err, &failed):
		if failed.Parked || failed.GivenUp || failed.RetryAt.IsZero() {
			return
		}
		wait = failed.RetryAt.Sub(e.clock.Now())
	case !isUnavailable(err):
		return
	default:
		wait = r.outageWait()
	}
	if wait <= 0 {
		wait = storeRetry // something else was in the way, a paused connector or another replica's lease
	}
	at := e.clock.Now().Add(wait)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.attempts.cancelRetry != nil {
		if !at.Before(r.attempts.retryAt) {
			return
		}
		r.attempts.cancelRetry() // what was planned for later is not to keep this one waiting
	}
	ctx, cancel := context.WithCancel(e.lifecycle.ctx)
	r.attempts.retryAt, r.attempts.cancelRetry = at, cancel
	e.lifecycle.begin(func() {
		defer cancel()
		if e.clock.Sleep(ctx, wait) != nil {
			return
		}
		r.mu.Lock()
		superseded := ctx.Err() != nil
		if !superseded {
			r.attempts.cancelRetry = nil
		}
		r.mu.Unlock()
		if !superseded {
			r.Start(cause)
		}
	})
}

// An attempt is the state of one run of a flight.
type attempt struct {
	refresher *Refresher
	flight    *flight
	cfg       *record.Config    // as it was when the flight began
	conn      *record.Connector // from cfg
	landed    bool              // the flight's waiters were released
	probing   bool              // this attempt is the one that may try a paused connector
}

// land releases the flight's waiters.
func (a *attempt) land(snap *Snapshot, err error) {
	a.landed = true
	a.flight.land(snap, err)
}

// run makes sure that the connection has a token that is not due for a refresh. The
// record is read here, inside the flight: what others saved meanwhile is adopted.
func (a *attempt) run(ctx context.Context) (*Snapshot, error) {
	var err error
	if a.conn, err = a.cfg.ConnectorOf(a.refresher.Key); err != nil {
		return nil, err
	}
	const tries = 3 // of a record that others change meanwhile
	for range tries {
		snap, err := a.once(ctx)
		if !errors.Is(err, errSuperseded) {
			return snap, err
		}
	}
	return a.refresher.adopt(ctx)
}

// once is run for the record as it is now. Its error is errSuperseded if other
// credentials have come while it was at it.
func (a *attempt) once(ctx context.Context) (*Snapshot, error) {
	held, err := a.acquire(ctx)
	if err != nil {
		return nil, err
	}
	if held.lease == nil {
		// Nothing to do, or nothing left to do: calls need not ask again at once.
		a.refresher.attempts.idleSince.Store(a.refresher.engine.clock.Now().UnixNano())
		return held.snap, nil
	}
	sentAt := a.refresher.engine.clock.Now()
	if held.isLate(sentAt, a.cfg.RequestTimeout()) {
		a.giveBack(ctx, held)
		a.refresher.engine.refusals.breakers.CancelProbe(a.conn, held.rec, sentAt)
		return nil, fmt.Errorf("%w: it took too long to save a lease", record.ErrStoreUnavailable)
	}
	answer := a.redeem(ctx, held, sentAt)
	level, msg := slog.LevelDebug, "token endpoint answered"
	if answer.Class == record.ClassAmbiguous {
		level, msg = slog.LevelWarn, "the token endpoint gave no usable answer; whether the refresh token was spent nobody knows"
	}
	a.cfg.Log().LogAttrs(ctx, level, msg,
		slog.String("connection", a.refresher.Key.String()), slog.String("class", string(answer.Class)),
		slog.String("code", answer.Code), slog.Int("status", answer.Status))
	if answer.Class == "" || !answer.RefreshToken.IsZero() {
		return a.saveToken(ctx, held, answer)
	}
	return a.saveFailure(ctx, held, answer)
}

// due decides from a record that was just read what is to be done: a refresh (true),
// nothing (false), or nothing that could help (an error).
func (a *attempt) due(ctx context.Context, rec *record.Record, snap *Snapshot, now time.Time) (bool, error) {
	switch {
	case rec.IsTombstone():
		return false, record.ConnectionNotFound(a.refresher.Key)
	case !rec.Enabled:
		return false, record.ErrConnectionDisabled
	case rec.IsParked() && !a.refresher.isUnparked(rec.Cycle.Parked):
		return false, rec.TokenError(now)
	}
	if rec.Credentials == nil && !a.conn.FetchesTokens() {
		return false, &record.TokenError{Key: a.refresher.Key, Class: record.ClassPermanent, Code: record.CodeNoCredentials, Parked: true, FailedAt: rec.Cycle.FailedAt}
	}
	expired := rec.Credentials == nil || rec.Credentials.AccessToken.IsZero() || rec.Credentials.ExpiredAt(now)
	if !a.conn.CanRefresh(rec.Credentials) {
		if expired {
			return false, a.refresher.reject(ctx, a.cfg, a.conn, rec.Generation, record.CodeNoRefreshToken)
		}
		return false, nil
	}
	if !expired && !snap.wantsRefresh(now) && !a.refresher.isForced(rec.Generation) {
		return false, nil
	}
	_, err := a.conn.TokenEndpoint(rec)
	if err == nil {
		_, err = a.conn.RequestParams(rec)
	}
	if err != nil {
		return false, &record.TokenError{Key: a.refresher.Key, Class: record.ClassConfiguration, Code: record.CodeMissingSettings, BadSettings: true, Err: err}
	}
	if now.Before(rec.Cycle.RetryAt) {
		if !expired {
			return false, nil
		}
		return false, rec.TokenError(now)
	}
	if until := a.refresher.engine.refusals.breakers.OpenUntil(a.conn, rec, now); !until.IsZero() {
		if !expired {
			return false, nil
		}
		return false, pausedError(a.refresher.Key, until)
	}
	return true, nil
}
