package engine

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"github.com/tokenbroker/caddy-token-broker/broker/internal/breaker"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// errSuperseded ends an update because the record holds another refresh token, or
// another lease, than the answer at hand belongs to.
var errSuperseded = errors.New("the record has moved on")

// saveToken merges an answer into the record. The new refresh token may be the only
// one that works now: what the store does not take goes to the journal, the token is
// used all the same, and saving is repeated until the store takes it.
func (a *attempt) saveToken(ctx context.Context, held *heldLease, ans record.Answer) (*Snapshot, error) {
	r := a.refresher
	a.clientAccepted(ctx, held)
	u := &pendingAnswer{id: held.lease.ID, key: r.Key, redeemed: held.lease.RefreshToken, replaces: held.rec.Generation, answer: ans}
	policy := a.policy(held)
	saved := r.engine.journalIfSlow(ctx, a.cfg, u)
	snap, event, err := a.settle(ctx, func(rec *record.Record) (record.EventType, error) { return u.merge(rec, policy, r.engine.clock.Now()) })
	if errors.Is(err, errSavedAlready) {
		event = u.outcome.event
		snap, err = r.load(ctx)
	}
	saved(err == nil || isFinal(err))
	if err != nil && !isFinal(err) {
		snap, err = a.saveLater(ctx, held, u, err)
	} else if err == nil {
		r.engine.DestroyEarlier(ctx, r.Key, snap.rev)
		a.emit(ctx, event, snap)
	} else if errors.Is(err, record.ErrConnectionNotFound) {
		// Nobody will ever use what has come too late.
		r.engine.revokeLate(ctx, newRevocation(a.cfg, a.conn, r.Key, held.rec.Settings, ans.AccessToken, ans.RefreshToken))
	}
	switch {
	case err == nil && a.usable(snap):
		return snap, nil
	case err == nil && !snap.Record.Enabled:
		return nil, record.ErrConnectionDisabled
	case err == nil:
		return nil, snap.Record.TokenError(r.engine.clock.Now())
	case errors.Is(err, errSuperseded):
		a.log(ctx, slog.LevelWarn, "a refreshed token was dropped: other credentials were imported meanwhile", nil)
		return nil, err
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

// saveLater keeps an answer and serves it from memory until the store has taken it.
// It returns only then, or when there is nothing to save any more: Close waits for it.
func (a *attempt) saveLater(ctx context.Context, held *heldLease, u *pendingAnswer, err error) (*Snapshot, error) {
	r := a.refresher
	e := r.engine
	a.log(ctx, slog.LevelError, "the store did not take a refreshed token; it is served from memory, and saving is retried", err)
	r.memory.unsaved.Store(true)
	defer r.memory.unsaved.Store(false)
	rec := held.rec.Clone()
	_, err = u.merge(rec, a.policy(held), e.clock.Now()) // from then on it belongs to who flushes
	e.keep(ctx, a.cfg, u)
	if err == nil {
		switch snap := r.Install(rec, held.rev, e.clock.Now()); {
		case a.landed: // with an answer before this one, which is of no use any more
		case a.usable(snap):
			a.land(snap, nil)
		default:
			a.land(nil, rec.TokenError(e.clock.Now()))
		}
	}
	for wait := minSaveRetry; ; wait = min(2*wait, maxSaveRetry) {
		if err := e.clock.Sleep(ctx, wait); err != nil {
			return nil, err
		}
		_ = e.flush(ctx) // its error is that of this answer or of one before it
		select {
		case <-u.done:
			return u.outcome.snap, u.outcome.err
		default:
		}
	}
}

// policy is what the attempt's configuration says about failures.
func (a *attempt) policy(held *heldLease) record.Policy {
	return record.Policy{Rotation: a.conn.RotationFor(held.rec.Credentials), GiveUp: a.cfg.GiveUpAfter(), Retention: a.cfg.RetainFor()}
}

// saveFailure records a failed redeem and releases the lease. Where that cannot be
// saved the lease stays: others then find out for themselves that it is over.
func (a *attempt) saveFailure(ctx context.Context, held *heldLease, ans record.Answer) (*Snapshot, error) {
	r := a.refresher
	if ans.Class == record.ClassPermanent && held.takeover && a.awaitNewer(ctx, held) {
		return nil, errSuperseded
	}
	if again, err := a.fellBack(ctx, held, ans); err != nil {
		return nil, err
	} else if again {
		return nil, errSuperseded
	}
	now := r.engine.clock.Now()
	if ans.Class == record.ClassPermanent {
		a.clientKnown(held, now)
	}
	policy := a.policy(held)
	policy.OwnFault = ans.Class == record.ClassConfiguration && breaker.SharesTokenRequests(a.conn, held.rec) && r.engine.refusals.suspicions.IsOwnFault(r.Key, ans.Code)
	var until time.Time
	if ans.Class == record.ClassConfiguration && !policy.OwnFault {
		until = now.Add(breaker.ProbeInterval)
		policy.Announced = !a.pause(ctx, held, ans, until, now)
	}
	snap, event, err := a.settle(ctx, func(rec *record.Record) (record.EventType, error) {
		if rec == nil || rec.IsTombstone() {
			return "", record.ConnectionNotFound(r.Key)
		}
		if !rec.Holds(held.lease) {
			return "", errSuperseded
		}
		return rec.Fail(ans, policy, now), nil
	})
	switch {
	case err == nil:
		a.emit(ctx, event, snap)
		if !a.usable(snap) {
			failure := snap.Record.TokenError(now)
			if !until.IsZero() {
				failure.RetryAt = until
			}
			return nil, failure
		}
		return snap, nil
	case errors.Is(err, errSuperseded):
		return nil, err
	default:
		return nil, &record.TokenError{Key: r.Key, Class: ans.Class, Code: ans.Code, RetryAt: now.Add(storeRetry), FailedAt: now, Err: err}
	}
}

// pause stops until then what the refusal is about, and tells operators of it. It reports
// false if that is no news.
func (a *attempt) pause(ctx context.Context, held *heldLease, ans record.Answer, until, now time.Time) (news bool) {
	e := a.refresher.engine
	begun, wide := e.refusals.breakers.Trip(a.conn, held.rec, ans.Code, until)
	if !begun || wide && !e.announce(ctx, a.conn, held.rec, now) {
		return false
	}
	what := "the token endpoint refuses what only this connection's settings say; the connection is paused and has lost nothing. " +
		"Check the settings that token requests have in them"
	switch {
	case wide && breaker.EndpointOf(a.conn, held.rec) != "":
		what = "a token endpoint that settings decide refuses the OAuth client; the connections with the same settings for it are paused, " +
			"none has lost its credentials. Check these settings, and the connector's client_id, client_secret and auth_style"
	case wide:
		what = "the token endpoint refuses the OAuth client; the connector is paused, no connection has lost its credentials. " +
			"Check its client_id, client_secret, auth_style and token_url"
	}
	a.log(ctx, slog.LevelError, what, &record.TokenError{Key: a.refresher.Key, Class: ans.Class, Code: ans.Code})
	return true
}

// awaitNewer gives the process whose lease was taken over the time to save what it
// may have got: its answer explains why the refresh token was refused. It reports
// whether other credentials came. Its own lease begins anew, so that nobody takes that over
// meanwhile and asks the token endpoint once more.
func (a *attempt) awaitNewer(ctx context.Context, held *heldLease) bool {
	e := a.refresher.engine
	if !e.isShared() {
		return false
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(e.lifecycle.ctx, cancel)()
	begun := e.clock.Now()
	a.prolong(ctx, held)
	for e.clock.Now().Sub(begun) < held.lease.Duration-leaseSlack {
		if e.clock.Sleep(ctx, leasePoll) != nil {
			return false
		}
		if snap, err := a.refresher.load(ctx); err == nil && snap.Record.Generation > held.rec.Generation {
			return true
		}
	}
	return false
}

// prolong gives the lease another id, so that others watch it from the beginning. If
// that cannot be saved it stays as it is.
func (a *attempt) prolong(ctx context.Context, held *heldLease) {
	lease := *held.lease
	lease.ID = uuid.NewString()
	_, _, err := a.refresher.engine.Update(ctx, a.refresher.Key, func(rec *record.Record) (*record.Record, error) {
		if rec == nil || !rec.Holds(held.lease) {
			return nil, errSuperseded
		}
		rec.Lease = &lease
		return rec, nil
	})
	if err == nil {
		held.lease = &lease
	}
}

func (a *attempt) settle(ctx context.Context, change func(*record.Record) (record.EventType, error)) (*Snapshot, record.EventType, error) {
	return a.refresher.engine.settle(ctx, a.refresher.Key, a.refresher.engine.save, change)
}

// settle changes the record and makes the result what calls are served from. The
// lease ends with it.
func (e *Engine) settle(ctx context.Context, key record.Key, save saveFunc, change func(*record.Record) (record.EventType, error)) (*Snapshot, record.EventType, error) {
	var event record.EventType
	rec, rev, err := e.UpdateWith(ctx, key, save, func(rec *record.Record) (_ *record.Record, err error) {
		if event, err = change(rec); err != nil {
			return nil, err
		}
		rec.Lease = nil
		rec.UpdatedAt = e.clock.Now()
		return rec, nil
	})
	if err != nil {
		return nil, "", err
	}
	return e.Refresher(key).Install(rec, rev, e.clock.Now()), event, nil
}

// usable reports whether a snapshot has a token for those who wait for the flight.
func (a *attempt) usable(snap *Snapshot) bool {
	return snap.servable(a.refresher.engine.clock.Now()) && !snap.Record.IsRejected()
}

// adopt reads what somebody else has saved, for those who wait.
func (r *Refresher) adopt(ctx context.Context) (*Snapshot, error) {
	snap, err := r.load(ctx)
	if err != nil {
		return nil, err
	}
	if now := r.engine.clock.Now(); !snap.servable(now) || snap.Record.IsRejected() {
		return nil, snap.Record.TokenError(now)
	}
	return snap, nil
}

// pausedError is the error of a connection whose connector waits for a mended client.
func pausedError(key record.Key, until time.Time) error {
	return &record.TokenError{Key: key, Class: record.ClassConfiguration, Code: "connector_paused", RetryAt: until, GivenUp: true}
}

func (a *attempt) emit(ctx context.Context, event record.EventType, snap *Snapshot) {
	a.refresher.engine.emit(ctx, a.cfg, a.conn, event, snap.Record)
}

func (a *attempt) log(ctx context.Context, level slog.Level, msg string, err error) {
	attrs := []slog.Attr{slog.String("connection", a.refresher.Key.String())}
	if err != nil {
		attrs = append(attrs, slog.String("error", err.Error()))
	}
	a.cfg.Log().LogAttrs(ctx, level, msg, attrs...)
}

// clientAccepted is called when the token endpoint has taken a token request. What it
// thinks of a connection's own client says nothing of the connector's.
func (a *attempt) clientAccepted(ctx context.Context, held *heldLease) {
	e := a.refresher.engine
	e.refusals.breakers.Reset(a.conn, held.rec)
	if _, own := a.conn.ClientFor(held.rec.Settings); !own {
		e.refusals.suspicions.Clear(a.refresher.Key)
		e.endAnnouncement(ctx, a.conn, held.rec)
	}
}

// clientKnown is called when the token endpoint has refused a grant for good, which it
// says to a client that it knows: the next connection may try at once.
func (a *attempt) clientKnown(held *heldLease, now time.Time) {
	e := a.refresher.engine
	e.refusals.breakers.CancelProbe(a.conn, held.rec, now)
	if _, own := a.conn.ClientFor(held.rec.Settings); !own {
		e.refusals.suspicions.Clear(a.refresher.Key)
	}
}
