package broker

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

// errSuperseded ends an update because the record holds another refresh token, or
// another lease, than the answer at hand belongs to.
var errSuperseded = errors.New("the record has moved on")

// saveToken merges an answer into the record, exactly if that still holds the
// refresh token which the answer was bought with. The new refresh token may be the
// only one that works now: if the store does not take it, the token is used all the
// same, and saving is repeated until the store does.
func (a *attempt) saveToken(ctx context.Context, held *hold, ans answer) (*snapshot, error) {
	r := a.refresher
	r.broker.pauses.resume(a.conn)
	merge := func(rec *Record) (EventType, error) {
		if rec == nil || rec.IsTombstone() {
			return "", ErrConnectionNotFound
		}
		if rec.refreshTokenHash() != held.lease.RefreshToken {
			return "", errSuperseded
		}
		return rec.succeed(ans), nil
	}
	snap, event, err := a.settle(ctx, merge)
	if isUnavailable(err) {
		snap, event, err = a.saveLater(ctx, held, ans, merge, err)
	}
	switch {
	case err == nil:
		r.broker.destroyEarlier(ctx, r.key, snap.rev)
		a.emit(ctx, event, snap)
		return snap, nil
	case errors.Is(err, errSuperseded):
		a.log(ctx, slog.LevelWarn, "a refreshed token was dropped: other credentials were imported meanwhile", nil)
		return r.adopt(ctx)
	default:
		a.log(ctx, slog.LevelWarn, "a refreshed token was dropped", err)
		return nil, err
	}
}

// How often saving is repeated while the store does not take an answer.
const (
	minSaveRetry = 100 * time.Millisecond
	maxSaveRetry = 5 * time.Second
)

// saveLater serves a new token from memory until the store has taken it. It returns
// only then, or when there is nothing to save any more: Close waits for it.
func (a *attempt) saveLater(ctx context.Context, held *hold, ans answer, merge func(*Record) (EventType, error), err error) (*snapshot, EventType, error) {
	r := a.refresher
	a.log(ctx, slog.LevelError, "the store did not take a refreshed token; it is served from memory, and saving is retried", err)
	r.broker.unsaved.Add(1)
	r.unsaved.Store(true)
	defer func() {
		r.unsaved.Store(false)
		r.broker.unsaved.Add(-1)
	}()
	rec := held.rec.Clone()
	if _, err := merge(rec); err == nil {
		a.landed = true
		a.flight.land(r.install(rec, held.rev, r.broker.clock.Now()), nil)
	}
	for wait := minSaveRetry; ; wait = min(2*wait, maxSaveRetry) {
		if err := r.broker.clock.Sleep(ctx, wait); err != nil {
			return nil, "", err
		}
		snap, event, err := a.settle(ctx, merge)
		if isUnavailable(err) {
			continue
		}
		if err == nil {
			a.log(ctx, slog.LevelInfo, "the store has taken the refreshed token", nil)
		}
		return snap, event, err
	}
}

// saveFailure records a failed redeem and releases the lease. Where that cannot be
// saved the lease stays: others then find out for themselves that it is over.
func (a *attempt) saveFailure(ctx context.Context, held *hold, ans answer) (*snapshot, error) {
	r := a.refresher
	now := r.broker.clock.Now()
	if ans.class == ClassPermanent && held.takeover {
		if snap := a.awaitNewer(ctx, held); snap != nil {
			return snap, nil
		}
	}
	var until time.Time
	announce := true
	if ans.class == ClassConfiguration {
		until = now.Add(probeInterval)
		announce = r.broker.pauses.pause(a.conn, until)
		if announce {
			a.log(ctx, slog.LevelError, "the token endpoint refuses the OAuth client; the connector is paused, no connection has lost its credentials. "+
				"Check its client_id, client_secret, auth_style and token_url", &TokenError{Key: r.key, Class: ans.class, Code: ans.code})
		}
	}
	policy := cyclePolicy{rotation: a.conn.Rotation, giveUp: a.cfg.refreshGiveUp(), quiet: !announce}
	snap, event, err := a.settle(ctx, func(rec *Record) (EventType, error) {
		if rec == nil || rec.IsTombstone() {
			return "", ErrConnectionNotFound
		}
		if !rec.holds(held.lease) {
			return "", errSuperseded
		}
		if !ans.refreshToken.IsZero() {
			rec.rotate(ans.refreshToken)
			rec.Generation++
		}
		return rec.fail(ans, policy, now), nil
	})
	switch {
	case err == nil:
		a.emit(ctx, event, snap)
		if !a.usable(snap) {
			failure := snap.rec.tokenError(now)
			if !until.IsZero() {
				failure.RetryAt = until
			}
			return nil, failure
		}
		return snap, nil
	case errors.Is(err, errSuperseded):
		return r.adopt(ctx)
	case isUnavailable(err) && !ans.refreshToken.IsZero():
		// A new refresh token came alone; losing it would cost the connection.
		return a.keepRefreshToken(ctx, held, ans)
	default:
		return nil, &TokenError{Key: r.key, Class: ans.class, Code: ans.code, RetryAt: now.Add(storeRetry), FailedAt: now, Err: err}
	}
}

// keepRefreshToken saves a refresh token that came without an access token, however
// long the store takes.
func (a *attempt) keepRefreshToken(ctx context.Context, held *hold, ans answer) (*snapshot, error) {
	now := a.refresher.broker.clock.Now()
	policy := cyclePolicy{rotation: a.conn.Rotation, giveUp: a.cfg.refreshGiveUp()}
	snap, event, err := a.saveLater(ctx, held, ans, func(rec *Record) (EventType, error) {
		if rec == nil || rec.IsTombstone() {
			return "", ErrConnectionNotFound
		}
		if rec.refreshTokenHash() != held.lease.RefreshToken {
			return "", errSuperseded
		}
		rec.rotate(ans.refreshToken)
		rec.Generation++
		return rec.fail(ans, policy, now), nil
	}, ErrStoreUnavailable)
	if err != nil {
		return a.refresher.adopt(ctx)
	}
	a.emit(ctx, event, snap)
	return nil, snap.rec.tokenError(now)
}

// awaitNewer gives the process whose lease was taken over the time to save what it
// may have got: its answer explains why the refresh token was refused. It returns
// nil if nothing came.
func (a *attempt) awaitNewer(ctx context.Context, held *hold) *snapshot {
	b := a.refresher.broker
	if !b.isShared() {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(b.life, cancel)()
	for begun := b.clock.Now(); b.clock.Now().Sub(begun) < held.lease.Duration; {
		if b.clock.Sleep(ctx, leasePoll) != nil {
			return nil
		}
		if snap, err := a.refresher.load(ctx); err == nil && snap.rec.Generation > held.rec.Generation {
			return snap
		}
	}
	return nil
}

// settle changes the record and makes the result what calls are served from. The
// lease ends with it.
func (a *attempt) settle(ctx context.Context, change func(*Record) (EventType, error)) (*snapshot, EventType, error) {
	b := a.refresher.broker
	var event EventType
	rec, rev, err := b.update(ctx, a.refresher.key, func(rec *Record) (_ *Record, err error) {
		if event, err = change(rec); err != nil {
			return nil, err
		}
		rec.Lease = nil
		rec.UpdatedAt = b.clock.Now()
		return rec, nil
	})
	if err != nil {
		return nil, "", err
	}
	return a.refresher.install(rec, rev, b.clock.Now()), event, nil
}

// usable reports whether a snapshot has a token for those who wait for the flight.
func (a *attempt) usable(snap *snapshot) bool {
	return snap.servable(a.refresher.broker.clock.Now()) && !snap.rec.wasRejected()
}

// adopt reads what somebody else has saved, for those who wait.
func (r *refresher) adopt(ctx context.Context) (*snapshot, error) {
	snap, err := r.load(ctx)
	if err != nil {
		return nil, err
	}
	if now := r.broker.clock.Now(); !snap.servable(now) || snap.rec.wasRejected() {
		return nil, snap.rec.tokenError(now)
	}
	return snap, nil
}

// paused is the error of a connection whose connector waits for a mended client.
func (a *attempt) paused(until time.Time) error {
	return &TokenError{Key: a.refresher.key, Class: ClassConfiguration, Code: "connector_paused", RetryAt: until, givenUp: true}
}

func (a *attempt) emit(ctx context.Context, event EventType, snap *snapshot) {
	a.refresher.broker.emit(ctx, a.cfg, a.conn, event, snap.rec)
}

func (a *attempt) log(ctx context.Context, level slog.Level, msg string, err error) {
	attrs := []slog.Attr{slog.String("connection", a.refresher.key.String())}
	if err != nil {
		attrs = append(attrs, slog.String("error", err.Error()))
	}
	a.cfg.logger().LogAttrs(ctx, level, msg, attrs...)
}
