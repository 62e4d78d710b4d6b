package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"sync/atomic"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// ErrTooManyRequests means that a connection or an application has as many requests
// under way as it may, see [Limits]. Nothing was sent.
var ErrTooManyRequests = errors.New("too many requests are under way")

// Limits bound how many requests are under way at a time. They keep one customer, or
// one application, from using up what all share; what a service itself allows is far
// less as a rule. 0 is the default, a negative number no limit.
type Limits struct {
	// Connection is for each connection. Default: 10000.
	Connection int

	// Application is for all connections of an application together. Default: 20000.
	Application int

	// Applications are for applications that have one of their own.
	Applications map[string]int
}

// The defaults of [Limits]. They bound what hangs. Callers that all come at once, and wait
// for one refresh, are to get their token.
const (
	DefaultConnectionLimit  = 10_000
	DefaultApplicationLimit = 20_000
)

func (l *Limits) connection() int { return cmp.Or(l.Connection, DefaultConnectionLimit) }

func (l *Limits) application(name string) int {
	return cmp.Or(l.Applications[name], l.Application, DefaultApplicationLimit)
}

// inFlight counts the requests that are under way. It outlives configurations, as
// requests do.
type inFlight struct{ n atomic.Int64 }

// enter counts one more, unless there are limit already.
func (f *inFlight) enter(limit int) bool {
	if f.n.Add(1) > int64(limit) && limit >= 0 {
		f.n.Add(-1)
		return false
	}
	return true
}

func (f *inFlight) leave() { f.n.Add(-1) }

// An Admission is a request of one connection that counts as under way until it is
// released.
type Admission struct {
	refresher *refresher
	traced    bool
	released  atomic.Bool
}

// Admit counts a request of key's connection as under way, whose application has been
// authenticated. ctx is the request's. Whoever gets an Admission must release it: when
// the response has been read, and an upgraded connection when it ends. Errors:
// [ErrTooManyRequests], [record.ErrConnectorNotFound], [*record.InputError].
func (b *Broker) Admit(ctx context.Context, key record.Key) (*Admission, error) {
	cfg := b.Config()
	r, _, err := b.find(cfg, key)
	if err != nil {
		return nil, err
	}
	return r.admit(ctx, cfg)
}

// AdmitCall is [Broker.Admit] for the connection that a call is for, and returns the URL
// that it goes to. With UnifiedAPI and ServiceID the connection is the one that they
// name; with one of them, or none, it is the only connection of the consumer that fits
// them and, without ServiceID, that may send its credential to the target's host.
// Whether it exists and may be used, [Admission.Authorize] says.
//
// Errors: those of [Broker.Admit] (an [*record.InputError] also if several fit: it lists them),
// [record.ErrConnectionNotFound], [ErrHostNotAllowed], [record.ErrStoreUnavailable], a [*record.TokenError] if
// the store was set back, ctx's.
func (b *Broker) AdmitCall(ctx context.Context, call ProxyCall) (*Admission, *url.URL, error) {
	cfg := b.Config()
	r, u, err := b.resolve(ctx, cfg, call)
	if err != nil {
		return nil, nil, err
	}
	admission, err := r.admit(ctx, cfg)
	return admission, u, err
}

func (r *refresher) admit(ctx context.Context, cfg *Config) (*Admission, error) {
	if limit := cfg.Limits.application(r.key.Application); !r.application.enter(limit) {
		r.leave()
		return nil, fmt.Errorf("%w: application %s has %d of them; try again when some are done",
			ErrTooManyRequests, record.Quote(r.key.Application), limit)
	}
	if limit := cfg.Limits.connection(); !r.inFlight.enter(limit) {
		r.application.leave()
		r.leave()
		return nil, fmt.Errorf("%w: this connection has %d of them; try again when some are done", ErrTooManyRequests, limit)
	}
	return &Admission{refresher: r, traced: isTraced(ctx)}, nil
}

// Key returns whose request it is.
func (a *Admission) Key() record.Key { return a.refresher.key }

// IsTraced reports whether the request is part of a trace.
func (a *Admission) IsTraced() bool { return a.traced }

// Release says that the request is over. It may be called more than once.
func (a *Admission) Release() {
	if !a.released.Swap(true) {
		a.refresher.inFlight.leave()
		a.refresher.application.leave()
		a.refresher.leave()
	}
}

// inFlightOf returns what counts an application's requests.
func (b *Broker) inFlightOf(application string) *inFlight {
	if f, ok := b.applications.Load(application); ok {
		return f.(*inFlight)
	}
	f, _ := b.applications.LoadOrStore(application, &inFlight{})
	return f.(*inFlight)
}
