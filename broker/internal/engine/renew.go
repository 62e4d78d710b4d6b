package engine

import (
	"context"
	"errors"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/clock"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// How long to wait between refreshes that are forced by 401s of downstream.
const (
	minForceCooldown = 10 * time.Second
	maxForceCooldown = time.Hour
)

// react runs reaction in the background, at most one at a time per connection.
func (r *Refresher) react(reaction func()) {
	if r.rejections.reacting.Swap(true) {
		return
	}
	if !r.engine.lifecycle.begin(func() {
		defer r.rejections.reacting.Store(false)
		reaction()
	}) {
		r.rejections.reacting.Store(false)
	}
}

// A forcedRefresh lets the next flight refresh a token that is valid by the clock, after a
// 401 or to validate the connection. mu is the refresher's.
type forcedRefresh struct {
	generation uint64        // guarded by mu; to replace even if its token is valid; 0: unset
	requested  bool          // guarded by mu; to validate the connection: the backoff does not apply
	unparked   secret.Hash   // guarded by mu; of a refused refresh token to send once more; empty: unset
	last       uint64        // guarded by mu; the generation that downstream rejected last
	next       clock.Instant // guarded by mu; when a refresh may be forced again
	cooldown   time.Duration // guarded by mu; between forced refreshes, while they do not help
}

// clear is called when the flight has ended. The caller holds the refresher's mu.
func (f *forcedRefresh) clear() { f.generation, f.requested, f.unparked = 0, false, "" }

// force lets the next flight refresh a token that is valid by the clock, because downstream
// has rejected it. It reports false while the cooldown lasts.
func (r *Refresher) force(generation uint64, now clock.Instant) bool {
	r = r.lock()
	defer r.mu.Unlock()
	f := &r.rejections.refresh
	f.last = generation
	r.rejections.forced.Store(true)
	if f.generation == generation {
		return true // already forced: join that refresh
	}
	if now < f.next {
		return false
	}
	f.cooldown = min(max(2*f.cooldown, minForceCooldown), maxForceCooldown)
	f.next = now.Add(f.cooldown)
	f.generation = generation
	return true
}

// isForced reports whether the flight must replace that generation even if its token is
// valid.
func (r *Refresher) isForced(generation uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rejections.refresh.generation != 0 && r.rejections.refresh.generation == generation
}

// ignoresWait reports whether the flight validates the connection, so that the backoff does
// not apply. Even then a refresh token that may be spent is not sent while the access token
// works: the attempt could cost the grant.
func (r *Refresher) ignoresWait(rec *record.Record) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	f := &r.rejections.refresh
	return f.requested && f.generation == rec.Generation && (!rec.Cycle.SparesGrant() || r.rejections.holds(rec.Generation))
}

// isRejected reports whether downstream has rejected the token of that generation, and has
// not accepted it since.
func (r *Refresher) isRejected(generation uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rejections.holds(generation)
}

// Accepted notes that downstream has accepted a credential. If the credential is newer than
// the one that was rejected last, the forced refresh helped, and the cooldown is reset. If it
// is that one, the rejection was not about the token.
func (r *Refresher) Accepted(generation uint64) {
	if !r.rejections.forced.Load() {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch last := r.rejections.refresh.last; {
	case generation > last:
		r.rejections.refresh.cooldown = 0
		r.rejections.forced.Store(false)
	case generation == last:
		r.rejections.refresh.last = 0
	}
}

// reject parks a connection that cannot obtain another token, because its token has expired
// or was refused by downstream. It returns the error for callers.
func (r *Refresher) reject(ctx context.Context, cfg *record.Config, conn *record.Connector, generation uint64, code string) error {
	e := r.engine
	now := e.clock.Now()
	var event record.EventType
	rec, rev, err := e.Update(ctx, r.Key, func(rec *record.Record) (*record.Record, error) {
		if rec == nil || rec.IsTombstone() || rec.Generation != generation || rec.Credentials == nil || rec.IsParked() {
			return nil, errSuperseded
		}
		if err := rec.StandbyError(); err != nil {
			return nil, err
		}
		event = rec.Fail(record.Answer{Class: record.ClassPermanent, Code: code}, record.Policy{Retention: cfg.RetainFor()}, now)
		return rec, nil
	})
	failure := &record.TokenError{Key: r.Key, Class: record.ClassPermanent, Code: code, Parked: true, FailedAt: now}
	switch {
	case err == nil:
		r.Install(rec, rev)
		e.emit(ctx, cfg, conn, event, rec)
	case !errors.Is(err, errSuperseded):
		failure.Err = err
	}
	return failure
}

// rejectLater is reject in the background, for a request that has been answered.
func (r *Refresher) rejectLater(conn *record.Connector, generation uint64) {
	r.react(func() {
		ctx, cancel := context.WithTimeout(context.Background(), openTimeout)
		defer cancel()
		_ = r.reject(ctx, r.engine.Config(), conn, generation, record.CodeAccessTokenRejected)
	})
}

// forceOnce lets the next flight replace the record's token even if it is valid, and send a
// refused refresh token once more. It reports false if it is too early for that.
func (r *Refresher) forceOnce(rec *record.Record, now clock.Moment) bool {
	wait := minForceCooldown
	if rec.IsParked() {
		wait = record.Cooldown
	}
	// Recent attempts of other replicas count too, as far as clocks agree.
	c := rec.Credentials
	lately := func(t time.Time) bool { return !t.IsZero() && now.Wall.Sub(t).Abs() < wait }
	if lately(rec.Cycle.FailedAt) || c != nil && c.Redeemed && lately(c.IssuedAt) {
		return false
	}
	r = r.lock()
	defer r.mu.Unlock()
	f := &r.rejections.refresh
	if now.Mono < f.next {
		return false
	}
	f.next = now.Mono.Add(max(wait, f.cooldown))
	f.generation, f.requested, f.unparked = rec.Generation, true, rec.Cycle.Parked
	return true
}

// isUnparked reports whether the flight may send a refresh token that was refused.
func (r *Refresher) isUnparked(parked secret.Hash) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rejections.refresh.unparked != "" && r.rejections.refresh.unparked == parked
}

// Renew is called when downstream has answered 401 to the token of a generation. It reports
// whether there is a newer one, from another refresh or from the one that it starts. The cooldown
// does not keep it from waiting for a refresh in progress, which may have made the token invalid.
func (r *Refresher) Renew(ctx context.Context, conn *record.Connector, generation uint64) bool {
	if snap := r.memory.snap.Load(); snap != nil && snap.Record.Generation > generation {
		return true
	}
	isRefreshing := r.inProgress() != nil
	snap, err := r.Read(ctx)
	if err != nil {
		return false
	}
	if snap.Record.Generation > generation {
		return true
	}
	if snap.Record.Standby && isRefreshing { // it began before the standby
		snap, err = r.await(ctx)
		return err == nil && snap.Record.Generation > generation
	}
	if !snap.Record.CanRefresh(conn) || snap.Record.IsParked() {
		return false
	}
	if !r.force(generation, r.engine.instant()) && !isRefreshing && snap.Record.Lease == nil {
		return false
	}
	snap, err = r.await(ctx)
	return err == nil && snap.Record.Generation > generation
}

// RenewLater is [Refresher.Renew] in the background, for a request that cannot be sent again.
func (r *Refresher) RenewLater(conn *record.Connector, generation uint64) {
	e := r.engine
	r.react(func() {
		ctx, cancel := context.WithTimeout(e.lifecycle.ctx, leaseDuration(e.Config().RequestTimeout()))
		defer cancel()
		r.Renew(ctx, conn, generation)
	})
}

// RenewOnce joins the refresh in progress or, unless it is too early, starts one, even if the
// token is valid or its refresh token was refused. It returns the snapshot to serve after
// that. A [*record.TokenError] says why there is no valid token: one that downstream has
// rejected is not valid.
func (r *Refresher) RenewOnce(ctx context.Context, conn *record.Connector) (*Snapshot, error) {
	if f := r.inProgress(); f != nil {
		select {
		case <-f.done: // its outcome is in the record
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	snap, err := r.Read(ctx)
	if err != nil {
		return nil, err
	}
	now := r.engine.now()
	if snap.Record.CanRefresh(conn) && r.engine.refusals.breakers.Hold(conn, snap.Record, true) == nil && r.forceOnce(snap.Record, now) {
		if snap, err = r.await(ctx); err != nil {
			return nil, err
		}
		return snap, r.rejectedError(snap)
	}
	if snap.servable(now) && !snap.Record.IsRejected() {
		return snap, r.rejectedError(snap)
	}
	if refused := r.refused(snap, conn, now); refused != nil {
		return nil, refused
	}
	return r.await(ctx)
}

// rejectedError returns an error if downstream has rejected the snapshot's token, so that it is
// not valid, whatever the clock says.
func (r *Refresher) rejectedError(snap *Snapshot) error {
	if r.isRejected(snap.Record.Generation) {
		return r.tokenError(snap.Record, r.engine.now())
	}
	return nil
}

// inProgress returns the refresh in progress, or nil. One that waits for the budget of its
// token endpoint is not in progress.
func (r *Refresher) inProgress() *flight {
	r = r.lock()
	defer r.mu.Unlock()
	if f := r.attempts.flight; f != nil && !f.begun {
		return nil
	}
	return r.attempts.flight
}

// NeedsAuth reports whether the connection is known to need a new authorisation.
func (r *Refresher) NeedsAuth() bool {
	snap := r.memory.snap.Load()
	return snap != nil && snap.Record.NeedsAuth()
}

// PausedNow returns the error of a connection whose token requests are paused, or nil.
func (e *Engine) PausedNow(conn *record.Connector, rec *record.Record, now time.Time) error {
	return e.refusals.breakers.Check(conn, rec)
}

// Rejected is called when downstream has refused the token of a generation. It parks the
// connection, in the background, if its token cannot be refreshed.
func (r *Refresher) Rejected(conn *record.Connector, generation uint64) {
	snap := r.memory.snap.Load()
	if snap == nil || snap.Record.Generation != generation || !isLast(conn, snap) || snap.Record.IsParked() {
		return
	}
	r.rejectLater(conn, generation)
}

// isLast reports whether the snapshot has a token that cannot be refreshed, here or elsewhere.
func isLast(conn *record.Connector, snap *Snapshot) bool {
	c := snap.Record.Credentials
	return c != nil && !snap.Record.Standby && conn.AuthType == connector.OAuth2 && !conn.CanRefresh(c)
}

// RejectLast is called when downstream has refused the token of a generation. If there will be
// no other one, because the connection is parked or cannot be refreshed, RejectLast notes that
// this one must not be sent again, and returns the error for callers. Otherwise it returns nil.
func (r *Refresher) RejectLast(ctx context.Context, conn *record.Connector, generation uint64) error {
	e := r.engine
	snap, now := r.memory.snap.Load(), e.clock.Now()
	if snap == nil || snap.Record.Generation != generation || snap.Record.Standby {
		return nil
	}
	if snap.Record.IsRejected() {
		return snap.Record.TokenError(now)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), openTimeout)
	defer cancel()
	if !snap.Record.NeedsAuth() {
		if !isLast(conn, snap) {
			return nil
		}
		failure := r.reject(ctx, e.Config(), conn, generation, record.CodeAccessTokenRejected) // perhaps before Rejected does
		if token, ok := errors.AsType[*record.TokenError](failure); ok && token.Err != nil {
			return nil // it could not be stored, so downstream's answer says more
		}
		return failure
	}
	rec, rev, err := e.Update(ctx, r.Key, func(rec *record.Record) (*record.Record, error) {
		if rec == nil || rec.IsTombstone() || rec.Generation != generation || !rec.NeedsAuth() {
			return nil, errSuperseded
		}
		rec.Cycle.TokenRejected = true
		return rec, nil
	})
	switch {
	case errors.Is(err, errSuperseded):
		return nil
	case err != nil: // until the store can be read again, this process remembers it
		rec, rev = snap.Record.Clone(), snap.rev
		rec.Cycle.TokenRejected = true
	}
	r.Install(rec, rev)
	return rec.TokenError(now)
}
