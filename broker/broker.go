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

// A Broker keeps the tokens of all connections in one store fresh. There must be
// one Broker for a store in a process, however often its configuration changes:
// what it knows of refreshes under way keeps a refresh token from being spent twice.
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

// connections are what this process keeps in memory of connections and applications.
type connections struct {
	refreshers   *table
	applications sync.Map // string :: *inFlight
	byService    atomic.Pointer[serviceIndex]
}

// refusals are what token endpoints have refused, beyond single connections.
type refusals struct {
	breakers      breakers
	suspicions    suspicions
	announcements announcements
}

// Options are what a [Broker] is made from.
type Options struct {
	// Open opens the store. It is called at first use, again at the next use if it
	// failed, and never by two callers at once. Its context has a deadline.
	Open func(context.Context) (record.Store, error)

	// Journal keeps what the store could not take. Without one, that is in memory only.
	Journal record.Journal

	// Clock is asked for the time. Default: [systemClock].
	Clock Clock

	// Transport returns what carries one token request: HTTP/1.1, on a connection of
	// its own. Default: [guard.NewTransport].
	Transport func(allowPrivate bool) http.RoundTripper
}

// New returns a broker that does nothing until it is asked to.
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

// Config returns the newest configuration.
func (b *Broker) Config() *Config { return b.cfg.Load() }

// Ready returns nil if the broker can do its work, and otherwise says what is in
// the way.
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

// Close starts no new redeem, waits until those under way are finished and saved,
// and closes store and journal. If ctx ends before, its error is returned; the log then
// names the connections whose new token was not saved.
func (b *Broker) Close(ctx context.Context) error {
	done := b.lifecycle.close()
	select {
	case <-done:
		return b.release()
	case <-ctx.Done():
		b.logUnsaved(ctx)
		go func() { // the process may go on without this broker
			<-done
			_ = b.release()
		}()
		return fmt.Errorf("refreshes are still under way: %w", ctx.Err())
	}
}

// release closes what the broker works with, once nobody does.
func (b *Broker) release() error {
	err := b.closeStore()
	if closer, ok := b.storage.journal.(io.Closer); ok {
		err = errors.Join(err, closer.Close())
	}
	return err
}

func (b *Broker) logUnsaved(ctx context.Context) {
	for _, u := range b.backlog.list() {
		level, msg := slog.LevelWarn, "the store did not take a refreshed token before the shutdown; the journal has it, and the next process on this machine saves it"
		if !u.journaled.Load() {
			level, msg = slog.LevelError, "neither the store nor the journal took a refreshed token before the shutdown; the connection may have to be authorised again"
		}
		b.Config().logger().LogAttrs(ctx, level, msg, slog.String("connection", u.key.String()))
	}
}

// A lifecycle runs the goroutines of a broker, and ends them.
type lifecycle struct {
	// ctx ends when Close begins: nothing new is started then, and nothing waits for what
	// was only planned. A request that was sent is finished all the same.
	ctx context.Context
	end context.CancelFunc

	mu     sync.Mutex // guards closed
	closed bool       // begin does nothing
	work   sync.WaitGroup
}

// begin runs work in a goroutine that Close waits for. It reports false, and does
// nothing, if the broker is closing.
func (l *lifecycle) begin(work func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.work.Go(work)
	return true
}

// close ends ctx and lets no more work begin. The channel is closed when all work has
// ended.
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
