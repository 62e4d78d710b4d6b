package broker

import (
	"context"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// current returns a snapshot whose credentials are usable now.
func (r *refresher) current(ctx context.Context, conn *record.Connector) (*snapshot, error) {
	snap, err := r.latest(ctx)
	if err != nil {
		return nil, err
	}
	return r.usable(ctx, conn, snap)
}

// usable returns snap if its credentials are usable now, and otherwise the result of a
// refresh.
func (r *refresher) usable(ctx context.Context, conn *record.Connector, snap *snapshot) (*snapshot, error) {
	if !snap.rec.Enabled {
		return nil, ErrConnectionDisabled
	}
	if conn.AuthType != connector.OAuth2 {
		return snap, nil
	}
	now := r.broker.clock.Now()
	refused := r.refused(snap, conn, now)
	switch {
	case snap.servable(now) && !snap.rec.IsRejected():
		if snap.wantsRefresh(now) && conn.CanRefresh(snap.rec.Credentials) && refused == nil && !isWithin(storeRetry, r.attempts.idleSince.Load(), now) {
			r.start(ctx) // without waiting, since the token is still valid
		}
		return snap, nil
	case refused != nil:
		return nil, refused
	default:
		return r.await(ctx)
	}
}

// refused returns an error if, according to the snapshot, no refresh can begin now. This
// spares the store, since a dead connection may get very many calls.
func (r *refresher) refused(snap *snapshot, conn *record.Connector, now time.Time) error {
	if snap.servable(now) && !snap.wantsRefresh(now) && !snap.rec.IsRejected() {
		return nil
	}
	if snap.rec.IsParked() || now.Before(snap.rec.Cycle.RetryAt) {
		return snap.rec.TokenError(now)
	}
	if until := r.broker.refusals.breakers.openUntil(conn, snap.rec, now); !until.IsZero() {
		return pausedError(r.key, until)
	}
	return nil
}

// await joins the refresh in progress, or starts one, and returns its result.
func (r *refresher) await(ctx context.Context) (*snapshot, error) {
	f := r.start(ctx)
	select {
	case <-f.done:
		if now := r.broker.clock.Now(); f.err == nil && !f.snap.servable(now) {
			// The flight landed long ago and is still saving its token, which has expired.
			return nil, &record.TokenError{Key: r.key, Class: record.ClassTransient, RetryAt: now.Add(storeRetry), Err: record.ErrStoreUnavailable}
		}
		return f.snap, f.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
