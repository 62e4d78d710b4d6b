// Package webhook posts events to HTTP endpoints, signed and in the form that the
// Vault API documents, so that receivers written for it need no change.
//
// Deliveries are kept in memory: those that a process has not made when it ends are
// lost, and named in its log.
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
	// maxPending bounds the deliveries that wait for one endpoint. It is per endpoint so
	// that one which is down does not take the room of the others.
	maxPending = 1000
	// maxInFlight bounds the attempts that are made at one endpoint at a time.
	maxInFlight = 4
)

// A Dispatcher delivers events to endpoints. It lives as long as the process; what
// it delivers to can be changed at any time. It is safe for concurrent use.
type Dispatcher struct {
	newTransport func(allowPrivate bool) http.RoundTripper

	dropped atomic.Uint64
	closing chan struct{} // closed by Close: no more waiting between attempts
	running sync.WaitGroup

	mu        sync.Mutex // guards what follows
	closed    bool
	cfg       Config
	endpoints map[string]*endpoint // by URL
	unsent    int                  // deliveries that Close cut short
}

// An endpoint is an [Endpoint] with the deliveries that are under way. Its ctx ends
// when it is removed, or when Close has waited long enough.
type endpoint struct {
	ctx      context.Context
	cancel   context.CancelFunc
	inFlight chan struct{} // holds one element per attempt
	pending  atomic.Int64
	current  atomic.Pointer[target]
}

// A target is what the newest configuration says of an endpoint.
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

// Configure replaces the configuration. What is pending for an endpoint that is no
// longer there is dropped; what is pending for one that stays, told by its URL, goes
// out with the new secret. If the configuration is not valid, nothing changes.
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

// client does not follow redirects: a webhook that moved is an error, and the body
// is for the endpoint that was configured.
func (d *Dispatcher) client(allowPrivate bool) *http.Client {
	return &http.Client{
		Transport:     d.newTransport(allowPrivate),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Emit implements [record.EventSink]. It never blocks: what there is no room for is
// dropped, counted and logged.
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

// drop is called with mu held.
func (d *Dispatcher) drop(ep *endpoint, event *record.Event, why string) {
	d.dropped.Add(1)
	d.cfg.logger().Error("webhook not delivered", "reason", why, "event_id", event.ID,
		"event_type", string(event.Type), "connection", event.Connection.Key.String(), "endpoint", ep.current.Load().name)
}

// Dropped returns how many deliveries were not begun since there was no room.
func (d *Dispatcher) Dropped() uint64 { return d.dropped.Load() }

// Close accepts no more events, gives attempts that are under way until ctx is done,
// and makes no further ones. The error says how many deliveries were not made; the
// log names them. The dispatcher cannot be used again.
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
