package broker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/tokenbroker/caddy-token-broker/broker/guard"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// A Broker keeps the tokens of all connections in one store fresh. A process must have
// only one Broker for a store, and reconfigure that one: its knowledge of refreshes in
// progress keeps a refresh token from being spent twice.
type Broker struct {
	clock     Clock
	cfg       atomic.Pointer[Config]
	transport func(allowPrivate bool) http.RoundTripper
	tracing   tracing

	storage     storage
	connections connections
	refusals    refusals
	backlog     *backlog
	lifecycle   lifecycle
}

// connections is what this process keeps in memory about connections and applications.
type connections struct {
	refreshers   *table
	applications sync.Map // string :: *inFlight
	byService    atomic.Pointer[serviceIndex]
}

// refusals are the refusals of token endpoints that may concern more than one connection.
type refusals struct {
	breakers      breakers
	suspicions    suspicions
	announcements announcements
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
	if opts.Clock == nil {
		opts.Clock = systemClock{}
	}
	if opts.Transport == nil {
		opts.Transport = func(allowPrivate bool) http.RoundTripper { return guard.NewTransport(allowPrivate) }
	}
	b := &Broker{
		clock: opts.Clock, transport: opts.Transport, backlog: newBacklog(),
		storage: storage{open: opts.Open, journal: opts.Journal}, connections: connections{refreshers: newTable()},
	}
	b.lifecycle.ctx, b.lifecycle.end = context.WithCancel(context.Background())
	b.cfg.Store(&Config{})
	return b
}

// Configure replaces the configuration.
func (b *Broker) Configure(cfg *Config) { b.cfg.Store(cfg) }

// Config returns the current configuration.
func (b *Broker) Config() *Config { return b.cfg.Load() }

// Ready returns nil if the broker can serve and refresh tokens, otherwise an error that
// says what prevents it.
func (b *Broker) Ready(ctx context.Context) error {
	s, err := b.store(ctx)
	if err != nil {
		return err
	}
	if checker, ok := s.(record.CheckedStore); ok {
		if err := checker.Check(ctx); err != nil {
			return err
		}
	}
	if n := len(b.backlog.list()); n > 0 {
		return fmt.Errorf("%w: %d refreshed tokens could not be saved yet", record.ErrStoreUnavailable, n)
	}
	if err := b.replay(ctx); err != nil {
		return err
	}
	return b.checkJournal(ctx)
}

// Close lets no more refreshes begin, waits until those in progress are finished and
// saved, and closes the store and the journal. If ctx ends first, Close returns its error
// and logs the connections whose new token was not saved.
func (b *Broker) Close(ctx context.Context) error {
	done := b.lifecycle.close()
	select {
	case <-done:
		return b.release()
	case <-ctx.Done():
		b.logUnsaved(ctx)
		go func() { // the process may live on
			<-done
			_ = b.release()
		}()
		return fmt.Errorf("refreshes are still in progress: %w", ctx.Err())
	}
}

// release closes the store and the journal. No work may be in progress.
func (b *Broker) release() error {
	err := b.closeStore()
	if closer, ok := b.storage.journal.(io.Closer); ok {
		err = errors.Join(err, closer.Close())
	}
	return err
}

func (b *Broker) logUnsaved(ctx context.Context) {
	for _, p := range b.backlog.list() {
		level, msg := slog.LevelWarn, "the store did not take a refreshed token before the shutdown; the journal has it, and the next process on this machine saves it"
		if !p.journaled.Load() {
			level, msg = slog.LevelError, "neither the store nor the journal took a refreshed token before the shutdown; the connection may have to be authorised again"
		}
		b.Config().logger().LogAttrs(ctx, level, msg, slog.String("connection", p.key.String()))
	}
}

// A lifecycle owns the goroutines of a broker.
type lifecycle struct {
	// ctx ends when Close begins. No work begins after that and planned work is abandoned,
	// but a token request that was sent is completed.
	ctx context.Context
	end context.CancelFunc

	mu     sync.Mutex
	closed bool           // guarded by mu; begin does nothing
	work   sync.WaitGroup // Add is guarded by mu
}

// begin runs work in a goroutine that Close waits for. If the broker is closing, it
// reports false and does nothing.
func (l *lifecycle) begin(work func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.work.Go(work)
	return true
}

// close ends ctx and lets no more work begin. The returned channel is closed when all work
// has ended.
func (l *lifecycle) close() <-chan struct{} {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.end()
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.work.Wait()
	}()
	return done
}
