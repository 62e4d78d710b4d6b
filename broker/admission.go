package broker

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// ErrTooManyRequests means that a connection or an application has reached its limit of
// requests in progress, see [Limits]. Nothing was sent.
var ErrTooManyRequests = errors.New("too many requests are in progress")

// An Admission is a request of one connection that counts as in progress until it is
// released.
type Admission struct {
	broker    *Broker
	refresher *refresher
	traced    bool
	released  atomic.Bool
}

// Admit counts a request of key's connection as in progress. The caller has authenticated
// the application, and must release the Admission when the response has been read, or when
// an upgraded connection ends. ctx is the request's. Errors: [ErrTooManyRequests],
// [record.ErrConnectorNotFound], [*record.InputError].
func (b *Broker) Admit(ctx context.Context, key record.Key) (*Admission, error) {
	cfg := b.Config()
	r, _, err := b.engine.find(cfg, key)
	if err != nil {
		return nil, err
	}
	return b.admit(ctx, r, cfg)
}

func (b *Broker) admit(ctx context.Context, r *refresher, cfg *Config) (*Admission, error) {
	if err := r.admit(cfg); err != nil {
		return nil, err
	}
	return &Admission{broker: b, refresher: r, traced: isTraced(ctx)}, nil
}

// Key returns the key of the connection.
func (a *Admission) Key() record.Key { return a.refresher.key }

// IsTraced reports whether the request is part of a trace.
func (a *Admission) IsTraced() bool { return a.traced }

// Release marks the request as ended. It may be called more than once.
func (a *Admission) Release() {
	if !a.released.Swap(true) {
		a.refresher.release()
	}
}
