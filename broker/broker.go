package broker

import (
	"context"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/internal/clock"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/engine"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/standby"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// A Broker keeps the tokens of all connections in one store fresh. A process must have
// only one Broker for a store, and reconfigure that one: its knowledge of refreshes in
// progress keeps a refresh token from being spent twice.
type Broker struct {
	engine    *engine.Engine
	byService atomic.Pointer[serviceIndex]
	waiter    standby.Waiter
}

// A Clock tells the time and waits. Embedders can replace it to simulate time.
type Clock interface {
	// Now returns the current time of day, which can be set, and can be wrong.
	Now() time.Time
	// Elapsed returns the time since some fixed moment in the past. It is never set.
	Elapsed() time.Duration
	// Sleep returns nil after d, or ctx's error as soon as ctx is done. It is not affected
	// when the time of day is set.
	Sleep(ctx context.Context, d time.Duration) error
}

// Options are the parts that a [Broker] is built from. They cannot be changed later.
type Options struct {
	// Open opens the store. It is called at first use and, if that fails, at the next use,
	// but never concurrently. Its context has a deadline.
	Open func(context.Context) (record.Store, error)

	// Journal keeps token responses that the store does not take. If nil, they are kept in
	// memory only.
	Journal record.Journal

	// Clock tells the time, for embedders that simulate it. Default: the system's clock.
	Clock Clock

	// Transport returns a transport for one token request: HTTP/1.1, on a new connection.
	// Default: [guard.NewTransport].
	Transport func(allowPrivate bool) http.RoundTripper
}

// New returns a broker without a configuration. It is idle until it is used.
func New(opts Options) *Broker {
	clk := opts.Clock
	if clk == nil {
		clk = clock.System()
	}
	e := engine.New(opts.Open, opts.Journal, clk, opts.Transport)
	return &Broker{engine: e, waiter: standby.Waiter{Connections: e, Clock: clk}}
}

// Configure replaces the configuration.
func (b *Broker) Configure(cfg *record.Config) { b.engine.Configure(cfg) }

// Config returns the current configuration.
func (b *Broker) Config() *record.Config { return b.engine.Config() }

// Ready returns nil if the broker can do its work, and otherwise says what prevents it.
func (b *Broker) Ready(ctx context.Context) error { return b.engine.Ready(ctx) }

// Start reads the journal, in the background, and saves what it holds as soon as the store
// takes it. Without it that waits for the first save, and another replica could take over
// a lease in the meantime, and send a refresh token that is already spent.
func (b *Broker) Start() { b.engine.Start() }

// Close begins no new refresh, waits until those in progress are finished and saved, and
// closes store and journal. If ctx ends first, its error is returned; the log then names the
// connections whose new token was not saved.
func (b *Broker) Close(ctx context.Context) error { return b.engine.Close(ctx) }
