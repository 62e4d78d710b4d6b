package engine

import (
	"context"
	"errors"
	"net/url"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/clock"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/pace"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/storequeue"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// Current returns a snapshot whose credentials are usable now.
func (r *Refresher) Current(ctx context.Context, conn *record.Connector) (*Snapshot, error) {
	snap, now, err := r.latest(ctx)
	if err != nil {
		return nil, err
	}
	return r.usable(ctx, conn, snap, now)
}

// usable returns snap if its credentials are usable now, and otherwise the result of a
// refresh.
func (r *Refresher) usable(ctx context.Context, conn *record.Connector, snap *Snapshot, now clock.Moment) (*Snapshot, error) {
	if !snap.Record.Enabled {
		return nil, record.ErrConnectionDisabled
	}
	if conn.AuthType != connector.OAuth2 {
		return snap, nil
	}
	isValid := snap.servable(now) && !snap.Record.IsRejected()
	if isValid && !snap.wantsRefresh(now) {
		return snap, nil
	}
	refused := r.refused(snap, conn, now)
	switch {
	case isValid:
		if conn.CanRefresh(snap.Record.Credentials) && refused == nil && !now.Mono.IsWithin(storeRetry, r.attempts.idleSince.Load()) {
			r.Start(ctx, pace.InUse) // without waiting, since the token is still valid
		}
		return snap, nil
	case refused != nil:
		return nil, refused
	default:
		return r.await(ctx)
	}
}

// refused returns an error if, according to the snapshot, the refresh that is due cannot begin
// now. This spares the store, since a dead connection may get very many calls.
func (r *Refresher) refused(snap *Snapshot, conn *record.Connector, now clock.Moment) error {
	if err := snap.standbyError(now); err != nil {
		return err
	}
	if snap.Record.IsParked() || r.waitLeft(snap.Record, now) > 0 {
		return r.tokenError(snap.Record, now)
	}
	if !conn.CanRefresh(snap.Record.Credentials) {
		return nil
	}
	return r.engine.refusals.breakers.Hold(conn, snap.Record, false)
}

// await joins the refresh in progress, or starts one, and returns its result.
func (r *Refresher) await(ctx context.Context) (*Snapshot, error) {
	f := r.start(ctx)
	defer f.ticket.Wait()()
	select {
	case <-f.done:
		if errors.Is(f.err, storequeue.ErrAbandoned) {
			return r.await(ctx) // its callers had left just before
		}
		if now := r.engine.now(); f.err == nil && !f.snap.servable(now) {
			// The flight landed long ago and is still saving its token, which has expired.
			return nil, &record.TokenError{Key: r.Key, Class: record.ClassTransient, RetryAt: now.Wall.Add(storeRetry), Err: record.ErrStoreUnavailable}
		}
		return f.snap, f.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// UsableAt returns a snapshot whose credential can be used now, and may be sent to u. The
// host is checked before a token is obtained.
func (r *Refresher) UsableAt(ctx context.Context, cfg *record.Config, conn *record.Connector, u *url.URL) (*Snapshot, error) {
	snap, now, err := r.latest(ctx)
	if err != nil {
		return nil, err
	}
	if err := snap.Allows(cfg, conn, u); err != nil {
		return nil, err
	}
	checked := snap
	if snap, err = r.usable(ctx, conn, snap, now); err != nil {
		return nil, err
	}
	if snap != checked { // its settings can differ too
		if err := snap.Allows(cfg, conn, u); err != nil {
			return nil, err
		}
	}
	return snap, nil
}

// Ended returns why no call can be made until the connection is changed from outside, or nil.
// It starts no refresh.
func (r *Refresher) Ended(ctx context.Context) error {
	snap, err := r.Latest(ctx)
	if err != nil {
		if errors.Is(err, record.ErrConnectionNotFound) {
			return err
		}
		return nil // it may be back soon
	}
	switch now := r.engine.now(); {
	case !snap.Record.Enabled:
		return record.ErrConnectionDisabled
	case snap.Record.NeedsAuth() && (!snap.servable(now) || snap.Record.IsRejected()):
		return r.tokenError(snap.Record, now)
	default:
		return nil
	}
}

// IsRefreshing reports whether this process has a refresh of the connection in progress.
func (e *Engine) IsRefreshing(key record.Key) bool {
	r := e.connections.refreshers.Load(&key)
	return r != nil && r.inProgress() != nil
}
