// Package webhook posts signed events to HTTP endpoints, in the format that the Apideck API
// documents, so that receivers written for it need no change.
//
// Deliveries are kept in memory: when the process ends, those not made are lost. The log
// names them.
package webhook

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/tokenbroker/caddy-token-broker/broker/guard"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

const (
	// maxPending bounds the pending deliveries of one endpoint. It is per endpoint so that
	// one that is down does not crowd out the others.
	maxPending = 1000
	// maxInFlight bounds the concurrent attempts at one endpoint.
	maxInFlight = 4
)

// A Dispatcher delivers events to endpoints. It lives as long as the process; its endpoints
// can be changed at any time. It is safe for concurrent use.
type Dispatcher struct {
	newTransport func(allowPrivate bool) http.RoundTripper

	dropped atomic.Uint64
	closing chan struct{} // closed by Close; ends the waits between attempts
	running sync.WaitGroup

	mu        sync.Mutex
	closed    bool                 // guarded by mu
	cfg       Config               // guarded by mu
	endpoints map[string]*endpoint // guarded by mu; by URL
	unsent    int                  // guarded by mu; deliveries that Close cut short
}

// An endpoint is an [Endpoint] with its deliveries in progress. ctx ends when the endpoint is
// removed, or when Close has timed out.
type endpoint struct {
	ctx      context.Context
	cancel   context.CancelFunc
	inFlight chan struct{} // holds one element per attempt in progress
	pending  atomic.Int64  // deliveries not ended yet
	current  atomic.Pointer[target]
}

// A target is an endpoint as the newest configuration describes it.
type target struct {
	Endpoint
	name   string // for logs
	client *http.Client
}

func newEndpoint() *endpoint {
	ctx, cancel := context.WithCancel(context.Background())
	return &endpoint{ctx: ctx, cancel: cancel, inFlight: make(chan struct{}, maxInFlight)}
}

// New returns a dispatcher without endpoints.
func New() *Dispatcher {
	return &Dispatcher{
		newTransport: func(allowPrivate bool) http.RoundTripper { return guard.NewTransport(allowPrivate) },
		closing:      make(chan struct{}),
		endpoints:    make(map[string]*endpoint),
	}
}

// Configure replaces the configuration. Endpoints are identified by URL. Pending deliveries
// to an endpoint that is removed are dropped; those to one that stays are signed with its new
// secret. If the configuration is invalid, nothing changes.
func (d *Dispatcher) Configure(cfg Config) error {
	if err := cfg.validate(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.cfg = cfg
	keep := make(map[string]*endpoint, len(cfg.Endpoints))
	for _, e := range cfg.Endpoints {
		ep := d.endpoints[e.URL]
		if ep == nil {
			ep = newEndpoint()
		}
		ep.current.Store(&target{Endpoint: e, name: displayName(e.URL), client: d.client(e.AllowPrivate)})
		keep[e.URL] = ep
	}
	for url, ep := range d.endpoints {
		if keep[url] == nil {
			ep.cancel()
		}
	}
	d.endpoints = keep
	return nil
}

// client returns a client that does not follow redirects: the body is meant for the
// configured endpoint only, so a redirect is an error.
func (d *Dispatcher) client(allowPrivate bool) *http.Client {
	return &http.Client{
		Transport:     d.newTransport(allowPrivate),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Emit implements [record.EventSink]. It never blocks: if too many deliveries are pending, the
// event is dropped, counted and logged.
func (d *Dispatcher) Emit(ctx context.Context, event record.Event) {
	span := trace.SpanFromContext(ctx)
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, ep := range d.endpoints {
		if !ep.current.Load().wants(event.Type) {
			continue
		}
		switch {
		case d.closed:
			d.drop(ep, &event, "shutting down")
		case ep.pending.Load() >= maxPending:
			d.drop(ep, &event, "too many deliveries are pending")
		default:
			ep.pending.Add(1)
			d.running.Go(func() {
				defer ep.pending.Add(-1)
				del := &delivery{dispatcher: d, endpoint: ep, event: &event, origin: span, begun: time.Now()}
				del.run()
			})
		}
	}
}

// drop counts and logs a delivery that is not begun. The caller holds mu.
func (d *Dispatcher) drop(ep *endpoint, event *record.Event, why string) {
	d.dropped.Add(1)
	d.cfg.logger().Error("webhook not delivered", "reason", why, "event_id", event.ID,
		"event_type", string(event.Type), "connection", event.Connection.Key.String(), "endpoint", ep.current.Load().name)
}

// Dropped returns the number of deliveries that were not begun, because too many were pending
// or the dispatcher was closed.
func (d *Dispatcher) Dropped() uint64 { return d.dropped.Load() }

// Close stops accepting events, waits for attempts in progress until ctx is done, and makes
// no further ones. The error says how many deliveries were not made; the log names them. The
// dispatcher cannot be used again.
func (d *Dispatcher) Close(ctx context.Context) error {
	d.mu.Lock()
	if !d.closed {
		d.closed = true
		close(d.closing)
	}
	d.mu.Unlock()

	done := make(chan struct{})
	go func() { d.running.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
		d.mu.Lock()
		for _, ep := range d.endpoints {
			ep.cancel()
		}
		d.mu.Unlock()
		<-done // soon: every request ends with its context
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, ep := range d.endpoints {
		ep.cancel()
	}
	if d.unsent > 0 {
		return fmt.Errorf("%d webhook deliveries were not made before shutdown; the log names their events", d.unsent)
	}
	return nil
}

func (d *Dispatcher) logger() *slog.Logger {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cfg.logger()
}

var _ record.EventSink = (*Dispatcher)(nil)
