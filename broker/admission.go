package broker

import (
	"context"
	"sync/atomic"

	"github.com/tokenbroker/caddy-token-broker/broker/internal/engine"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/tracing"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// An Admission is a request of one connection that counts as in progress until it is
// released.
type Admission struct {
	broker    *Broker
	refresher *engine.Refresher
	config    *record.Config    // at the time of the admission
	conn      *record.Connector // as configured there
	traced    bool
	released  atomic.Bool
	used      atomic.Bool   // first is an Authorization
	first     Authorization // allocated here because nearly all requests need exactly one
}

// Admit counts a request of key's connection as in progress. The caller has authenticated
// the application, and must release the Admission when the response has been read, or when
// an upgraded connection ends. ctx is the request's. Errors: [record.ErrTooManyRequests],
// [record.ErrConnectorNotFound], [*record.InputError].
func (b *Broker) Admit(ctx context.Context, key record.Key) (*Admission, error) {
	cfg := b.Config()
	r, conn, err := b.engine.Find(cfg, key)
	if err != nil {
		return nil, err
	}
	return b.admit(ctx, r, cfg, conn)
}

func (b *Broker) admit(ctx context.Context, r *engine.Refresher, cfg *record.Config, conn *record.Connector) (*Admission, error) {
	if err := r.Admit(cfg); err != nil {
		return nil, err
	}
	return &Admission{broker: b, refresher: r, config: cfg, conn: conn, traced: tracing.IsTraced(ctx)}, nil
}

// Key returns the key of the connection.
func (a *Admission) Key() record.Key { return a.refresher.Key }

// AllowsPrivate reports whether the connector's hosts may be private. Use separate transports
// for such connectors, so that others never reuse their open connections.
func (a *Admission) AllowsPrivate() bool { return a.config.AllowsPrivate(a.conn) }

// IsTraced reports whether the request is part of a trace.
func (a *Admission) IsTraced() bool { return a.traced }

// Ended returns why there will be no more calls of the connection until its application does
// something about it: it was deleted or disabled, or must be authorised again. Otherwise it
// returns nil. An upgraded connection should end then.
func (a *Admission) Ended(ctx context.Context) error { return a.refresher.Ended(ctx) }

// Release marks the request as ended. It may be called more than once.
func (a *Admission) Release() {
	if !a.released.Swap(true) {
		a.refresher.Release()
	}
}
