package engine

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"github.com/tokenbroker/caddy-token-broker/broker/internal/breaker"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/revocation"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/storequeue"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// errSuperseded ends an update because the answer belongs to a refresh token, or a lease,
// that the record no longer holds.
var errSuperseded = errors.New("the record has moved on")

// saveToken merges an answer into the record. Its refresh token may be the only one that
// works now. If the store does not take the answer, the journal keeps it, calls are served
// the token from memory, and saving is retried until the store takes it.
func (a *attempt) saveToken(ctx context.Context, held *heldLease, ans record.Answer) (*Snapshot, error) {
	r := a.refresher
	a.clientAccepted(ctx, held)
	u := &pendingAnswer{id: held.lease.ID, key: r.Key, redeemed: held.lease.RefreshToken, replaces: held.rec.Generation, answer: ans}
	policy := a.policy(held)
	saved := r.engine.journalIfSlow(ctx, a.cfg, u)
	snap, event, err := a.settle(ctx, held, func(rec *record.Record) (record.EventType, error) { return u.merge(rec, policy, r.engine.clock.Now()) })
	if errors.Is(err, errSavedAlready) {
		event = u.outcome.event
		snap, err = r.load(ctx)
	}
	saved(err == nil || isFinal(err))
	if err != nil && !isFinal(err) {
		snap, err = a.saveLater(ctx, held, u, err)
	} else if err == nil {
		r.engine.destroyRedeemed(ctx, r.Key, snap.rev)
		a.emit(ctx, event, snap)
	} else if errors.Is(err, record.ErrConnectionNotFound) {
		// The connection was deleted, so the new tokens are of no use.
		r.engine.revoker.RevokeLate(ctx, revocation.Grant{
			Config: a.cfg, Connector: a.conn, Key: r.Key, Settings: held.rec.Settings, AccessToken: ans.AccessToken, RefreshToken: ans.RefreshToken,
		})
	}
	switch {
	case err == nil && a.usable(snap):
		return snap, nil
	case err == nil && !snap.Record.Enabled:
		return nil, record.ErrConnectionDisabled
	case err == nil:
		return nil, snap.Record.TokenError(r.engine.clock.Now())
	case errors.Is(err, errSuperseded):
		a.log(ctx, slog.LevelWarn, "a refreshed token was dropped: other credentials were imported in the meantime", nil)
		return nil, err
	default:
		a.log(ctx, slog.LevelWarn, "a refreshed token was dropped", err)
		return nil, err
	}
}

// How long to wait before saving is retried; the delay doubles each time.
const (
	minSaveRetry = 100 * time.Millisecond
	maxSaveRetry = 5 * time.Second
)

// saveLater keeps an answer that the store did not take, and serves it from memory. It
// returns when the answer is saved or there is nothing left to save: Close waits for that.
func (a *attempt) saveLater(ctx context.Context, held *heldLease, u *pendingAnswer, err error) (*Snapshot, error) {
	r := a.refresher
	e := r.engine
	a.log(ctx, slog.LevelError, "the store did not take a refreshed token; it is served from memory, and saving is retried", err)
	r.memory.unsaved.Store(true)
	defer r.memory.unsaved.Store(false)
	rec := held.rec.Clone()
	_, err = u.merge(rec, a.policy(held), e.clock.Now()) // after keep, only the flush may touch u
	e.keep(ctx, a.cfg, u)
	if err == nil {
		switch snap := r.Install(rec, held.rev); {
		case a.landed: // with an earlier answer, which this one has replaced
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
		_ = e.flush(ctx) // u.outcome has this answer's error
		select {
		case <-u.done:
			return u.outcome.snap, u.outcome.err
		default:
		}
	}
}

// policy returns how the attempt's configuration handles failures.
func (a *attempt) policy(held *heldLease) record.Policy {
	return record.Policy{Rotation: a.conn.RotationFor(held.rec.Credentials), GiveUp: a.cfg.GiveUpAfter(), Retention: a.cfg.RetainFor()}
}

// saveFailure records a failed token request and releases the lease. If that cannot be saved
// the lease stays, and others wait until it expires.
func (a *attempt) saveFailure(ctx context.Context, held *heldLease, ans record.Answer) (*Snapshot, error) {
	r := a.refresher
	if ans.Class == record.ClassPermanent {
		r.engine.refusals.breakers.Accepted(a.conn, held.rec) // only a known client gets this answer
	}
	if ans.Class == record.ClassPermanent && held.takeover && a.awaitNewer(ctx, held) {
		return nil, errSuperseded
	}
	if again, err := a.fellBack(ctx, held, ans); err != nil {
		return nil, err
	} else if again {
		return nil, errSuperseded
	}
	now := r.engine.clock.Now()
	policy := a.policy(held)
	r.assess(&policy, held, r.engine.now())
	switch {
	case ans.Class == record.ClassConfiguration:
		policy.Announced = !a.pause(ctx, held, ans, now)
	case ans.Class == record.ClassRefused && !policy.Ahead:
		a.noteRefusal(ctx, held, ans)
	}
	snap, event, err := a.settle(ctx, held, func(rec *record.Record) (record.EventType, error) {
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
			if ans.Class == record.ClassConfiguration && !failure.Parked {
				failure.RetryAt, failure.GivenUp = now.Add(breaker.ProbeInterval), true // its turn comes
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

// awaitNewer gives the process whose lease was taken over time to save a token that it may
// have obtained, which would explain why the refresh token was refused. It reports whether
// newer credentials were saved. It renews this process's lease first, so that no other
// process takes the lease over and sends one more token request.
func (a *attempt) awaitNewer(ctx context.Context, held *heldLease) bool {
	e := a.refresher.engine
	if !e.IsShared() {
		return false
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(e.lifecycle.ctx, cancel)()
	begun := e.instant()
	a.prolong(ctx, held)
	for e.instant().Sub(begun) < held.lease.Duration-leaseSlack {
		if e.clock.Sleep(ctx, leasePoll) != nil {
			return false
		}
		if snap, err := a.refresher.load(ctx); err == nil && snap.Record.Generation > held.rec.Generation {
			return true
		}
	}
	return false
}

// prolong gives the lease another id, so that others observe it for its full duration again.
// If that cannot be saved the lease stays as it is.
func (a *attempt) prolong(ctx context.Context, held *heldLease) {
	lease := *held.lease
	lease.ID = uuid.NewString()
	rec, rev, err := a.refresher.engine.Update(ctx, a.refresher.Key, func(rec *record.Record) (*record.Record, error) {
		if rec == nil || !rec.Holds(held.lease) {
			return nil, errSuperseded
		}
		rec.Lease = &lease
		return rec, nil
	})
	if err == nil {
		held.lease, held.rec, held.rev = &lease, rec, rev
	}
}

// settle is [Engine.settle] for the attempt's connection. It loads the record only if
// another process has changed it since the lease was taken.
func (a *attempt) settle(ctx context.Context, held *heldLease, change func(*record.Record) (record.EventType, error)) (*Snapshot, record.EventType, error) {
	return a.refresher.engine.settle(ctx, a.refresher.Key, held, a.refresher.engine.save, change)
}

// settle changes the record, releases its lease and serves calls from the result. held says
// what the record was, unless it is nil.
func (e *Engine) settle(ctx context.Context, key record.Key, held *heldLease, save saveFunc, change func(*record.Record) (record.EventType, error)) (*Snapshot, record.EventType, error) {
	if held == nil {
		held = &heldLease{}
	}
	var event record.EventType
	rec, rev, err := e.updateSeen(storequeue.With(ctx, storequeue.Settle), key, held.rec, held.rev, save, func(rec *record.Record) (_ *record.Record, err error) {
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
	return e.Refresher(key).Install(rec, rev), event, nil
}

// usable reports whether a snapshot has a token for the flight's waiters.
func (a *attempt) usable(snap *Snapshot) bool {
	return snap.servable(a.refresher.engine.now()) && !snap.Record.IsRejected()
}

// adopt returns a token that another process or request has saved.
func (r *Refresher) adopt(ctx context.Context) (*Snapshot, error) {
	snap, err := r.load(ctx)
	if err != nil {
		return nil, err
	}
	if now := r.engine.now(); !snap.servable(now) || snap.Record.IsRejected() {
		return nil, r.tokenError(snap.Record, now)
	}
	return snap, nil
}

func (a *attempt) emit(ctx context.Context, event record.EventType, snap *Snapshot) {
	a.refresher.engine.emit(ctx, a.cfg, a.conn, event, snap.Record)
}

func (a *attempt) log(ctx context.Context, level slog.Level, msg string, err error) {
	attrs := []slog.Attr{slog.String("connection", a.refresher.Key.String())}
	if err != nil {
		attrs = append(attrs, slog.String("error", err.Error()))
	}
	if token, ok := errors.AsType[*record.TokenError](err); ok && token.Detail != "" {
		attrs = append(attrs, slog.String("detail", token.Detail))
	}
	a.cfg.Log().LogAttrs(ctx, level, msg, attrs...)
}
