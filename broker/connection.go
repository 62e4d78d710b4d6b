package broker

import (
	"context"
	"errors"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// look reads a connection and the connector that it is to.
func (b *Broker) look(ctx context.Context, key record.Key) (*record.Connector, *record.Connection, error) {
	conn, err := b.Config().connector(key)
	if err != nil {
		return nil, nil, err
	}
	view, err := b.show(ctx, conn, key)
	return conn, view, err
}

// show reads a connection. One whose credentials in the store are older than those that
// this process has seen is there, but cannot be used until it is imported again.
func (b *Broker) show(ctx context.Context, conn *record.Connector, key record.Key) (*record.Connection, error) {
	snap, err := b.refresher(key).read(ctx)
	if err == nil {
		view := snap.rec.View(&conn.Definition, b.clock.Now())
		return &view, nil
	}
	if failed, ok := errors.AsType[*record.TokenError](err); !ok || failed.Code != codeStaleStore {
		return nil, err
	}
	rec, _, err := b.load(ctx, key)
	switch {
	case errors.Is(err, record.ErrNotFound), err == nil && rec.IsTombstone():
		return nil, record.ConnectionNotFound(key)
	case err != nil:
		return nil, err
	}
	view := rec.View(&conn.Definition, b.clock.Now())
	view.State, view.Health = record.StateInvalid, record.HealthNeedsAuth
	return &view, nil
}

// Connection returns what may be known of a connection. Errors:
// [record.ErrConnectorNotFound], [record.ErrConnectionNotFound], [record.ErrStoreUnavailable], [*record.InputError].
func (b *Broker) Connection(ctx context.Context, key record.Key) (*record.Connection, error) {
	_, view, err := b.look(ctx, key)
	return view, err
}
