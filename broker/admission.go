package broker

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// ErrTooManyRequests means that a connection or an application has reached its limit of
// requests in progress, see [Limits]. Nothing was sent.
var ErrTooManyRequests = errors.New("too many requests are in progress")

// inFlight counts requests in progress. It outlives configurations, as requests do.
type inFlight struct{ n atomic.Int64 }

// acquire counts one more request, unless limit are in progress. A negative limit is no
// limit.
func (f *inFlight) acquire(limit int) bool {
	if f.n.Add(1) > int64(limit) && limit >= 0 {
		f.n.Add(-1)
		return false
	}
	return true
}

func (f *inFlight) release() { f.n.Add(-1) }

// An Admission is a request of one connection that counts as in progress until it is
// released.
type Admission struct {
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
	r, _, err := b.find(cfg, key)
	if err != nil {
		return nil, err
	}
	return r.admit(ctx, cfg)
}

func (r *refresher) admit(ctx context.Context, cfg *Config) (*Admission, error) {
	if limit := cfg.Limits.application(r.key.Application); !r.admissions.application.acquire(limit) {
		r.dropIfUnknown()
		return nil, fmt.Errorf("%w: application %s has %d of them; try again when some have ended",
			ErrTooManyRequests, record.Quote(r.key.Application), limit)
	}
	if limit := cfg.Limits.connection(); !r.admissions.own.acquire(limit) {
		r.admissions.application.release()
		r.dropIfUnknown()
		return nil, fmt.Errorf("%w: this connection has %d of them; try again when some have ended", ErrTooManyRequests, limit)
	}
	return &Admission{refresher: r, traced: isTraced(ctx)}, nil
}

// Key returns the key of the connection.
func (a *Admission) Key() record.Key { return a.refresher.key }

// IsTraced reports whether the request is part of a trace.
func (a *Admission) IsTraced() bool { return a.traced }

// Release marks the request as ended. It may be called more than once.
func (a *Admission) Release() {
	if !a.released.Swap(true) {
		a.refresher.admissions.own.release()
		a.refresher.admissions.application.release()
		a.refresher.dropIfUnknown()
	}
}

// inFlightOf returns the counter of an application's requests.
func (b *Broker) inFlightOf(application string) *inFlight {
	if f, ok := b.connections.applications.Load(application); ok {
		return f.(*inFlight)
	}
	f, _ := b.connections.applications.LoadOrStore(application, &inFlight{})
	return f.(*inFlight)
}
