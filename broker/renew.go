package broker

import (
	"context"
	"errors"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// How soon a refresh that only a 401 gives a reason for may be forced again.
const (
	minForceCooldown = 10 * time.Second
	maxForceCooldown = time.Hour
)

// Renew is called when downstream has answered 401. It reports whether there is a
// newer credential than the one that was sent, so that the request is worth sending
// again: another process or request has refreshed meanwhile, or the refresh that Renew
// starts and waits for brings one. A connection whose refreshes do not help is
// refreshed less and less often.
func (a *Authorization) Renew(ctx context.Context) bool {
	if a.callerSupplied {
		return false
	}
	r := a.refresher
	b := r.broker
	if snap := r.memory.snap.Load(); snap != nil && snap.rec.Generation > a.generation {
		return true
	}
	snap, err := r.read(ctx)
	if err != nil {
		return false
	}
	if snap.rec.Generation > a.generation {
		return true
	}
	if !a.conn.CanRefresh(snap.rec.Credentials) || snap.rec.IsParked() || !r.force(a.generation, b.clock.Now()) {
		return false
	}
	snap, err = r.await(ctx)
	return err == nil && snap.rec.Generation > a.generation
}

// RenewInBackground is Renew for a request that cannot be sent again.
func (a *Authorization) RenewInBackground() {
	if a.callerSupplied {
		return
	}
	b := a.refresher.broker
	a.refresher.react(func() {
		ctx, cancel := context.WithTimeout(b.lifecycle.ctx, leaseDuration(b.Config().refreshTimeout()))
		defer cancel()
		a.Renew(ctx)
	})
}

// react does what a 401 asks for in the background, for one of many at a time.
func (r *refresher) react(reaction func()) {
	if r.rejections.reacting.Swap(true) {
		return
	}
	if !r.broker.lifecycle.begin(func() {
		defer r.rejections.reacting.Store(false)
		reaction()
	}) {
		r.rejections.reacting.Store(false)
	}
}

// forcedRefresh is what a connection's 401s, and requests to validate it, have led to.
type forcedRefresh struct {
	generation uint64      // to be replaced by the flight to come, however valid; 0: none
	unparked   secret.Hash // and to be sent by it, though it was refused; empty: none
	last       uint64      // the generation that was rejected last
	next       time.Time
	cooldown   time.Duration
}

// clear is called when the flight has ended. The caller holds the refresher's mu.
func (f *forcedRefresh) clear() { f.generation, f.unparked = 0, "" }

// force allows a refresh of a token that is valid by the clock, because downstream
// has rejected it. It reports false while the cooldown lasts.
func (r *refresher) force(generation uint64, now time.Time) bool {
	r = r.lock()
	defer r.mu.Unlock()
	f := &r.rejections.refresh
	if f.generation == generation {
		f.last = generation
		return true // asked for already: join it
	}
	if now.Before(f.next) {
		return false
	}
	f.cooldown = min(max(2*f.cooldown, minForceCooldown), maxForceCooldown)
	f.next = now.Add(f.cooldown)
	f.generation, f.last = generation, generation
	r.rejections.forced.Store(true)
	return true
}

// isForced reports whether the flight is to replace that generation, however valid.
func (r *refresher) isForced(generation uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rejections.refresh.generation != 0 && r.rejections.refresh.generation == generation
}

// isRejected reports whether that is because downstream has rejected it.
func (r *refresher) isRejected(generation uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rejections.refresh.generation != 0 && r.rejections.refresh.generation == generation && r.rejections.refresh.last == generation
}

// accepted notes that downstream took a credential: forced refreshes help.
func (r *refresher) accepted(generation uint64) {
	if !r.rejections.forced.Load() {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if generation > r.rejections.refresh.last {
		r.rejections.refresh.cooldown = 0
		r.rejections.forced.Store(false)
	}
}

// reject parks a connection that has no way to another token, for good: its token
// has expired, or downstream refused it. It returns the error for callers.
func (r *refresher) reject(ctx context.Context, cfg *Config, conn *record.Connector, generation uint64, code string) error {
	b := r.broker
	now := b.clock.Now()
	var event record.EventType
	rec, rev, err := b.update(ctx, r.key, func(rec *record.Record) (*record.Record, error) {
		if rec == nil || rec.IsTombstone() || rec.Generation != generation || rec.Credentials == nil || rec.IsParked() {
			return nil, errSuperseded
		}
		event = rec.Fail(record.Answer{Class: record.ClassPermanent, Code: code}, record.Policy{Retention: cfg.retention()}, now)
		return rec, nil
	})
	failure := &record.TokenError{Key: r.key, Class: record.ClassPermanent, Code: code, Parked: true, FailedAt: now}
	switch {
	case err == nil:
		r.install(rec, rev, now)
		b.emit(ctx, cfg, conn, event, rec)
	case !errors.Is(err, errSuperseded):
		failure.Err = err
	}
	return failure
}

// rejectLater is reject for a caller that has its answer already.
func (r *refresher) rejectLater(conn *record.Connector, generation uint64) {
	r.react(func() {
		ctx, cancel := context.WithTimeout(context.Background(), openTimeout)
		defer cancel()
		_ = r.reject(ctx, r.broker.Config(), conn, generation, record.CodeAccessTokenRejected)
	})
}

// forceOnce allows the next flight to replace the record's token however valid, and to
// send once more a refresh token that was refused. It reports false if it is too early.
func (r *refresher) forceOnce(rec *record.Record, now time.Time) bool {
	wait := minForceCooldown
	if rec.IsParked() {
		wait = record.Cooldown
	}
	// What other replicas have tried lately counts too, as far as clocks agree.
	c := rec.Credentials
	lately := func(t time.Time) bool { return !t.IsZero() && now.Sub(t).Abs() < wait }
	if now.Before(rec.Cycle.RetryAt) || lately(rec.Cycle.FailedAt) || c != nil && c.Redeemed && lately(c.IssuedAt) {
		return false
	}
	r = r.lock()
	defer r.mu.Unlock()
	f := &r.rejections.refresh
	if now.Before(f.next) {
		return false
	}
	f.next = now.Add(max(wait, f.cooldown))
	f.generation, f.unparked = rec.Generation, rec.Cycle.Parked
	return true
}

// isUnparked reports whether the flight may send the refresh token that was refused.
func (r *refresher) isUnparked(parked secret.Hash) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rejections.refresh.unparked != "" && r.rejections.refresh.unparked == parked
}
