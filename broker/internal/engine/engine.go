package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/guard"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/breaker"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/inject"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// An Engine keeps the tokens of one store fresh. It knows the connections that are in use,
// and what is in progress for each.
type Engine struct {
	clock     Clock
	cfg       atomic.Pointer[record.Config]
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
}

// refusals are the refusals of token endpoints that may concern more than one connection.
type refusals struct {
	breakers      breaker.Set
	suspicions    breaker.Suspicions
	announcements announcements
}

// A lifecycle owns the goroutines of a broker.
type lifecycle struct {
	// ctx ends when Close begins. No work begins after that and planned work is abandoned,
	// but a token request that was sent is completed.
	ctx context.Context
	end context.CancelFunc

	mu     sync.Mutex
	closed bool           // guarded by mu; begin refuses work
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

// Ready returns nil if the broker can serve and refresh tokens, otherwise an error that
// says what prevents it.
func (e *Engine) Ready(ctx context.Context) error {
	s, err := e.Store(ctx)
	if err != nil {
		return err
	}
	if checker, ok := s.(record.CheckedStore); ok {
		if err := checker.Check(ctx); err != nil {
			return err
		}
	}
	if n := len(e.backlog.list()); n > 0 {
		return fmt.Errorf("%w: %d refreshed tokens could not be saved yet", record.ErrStoreUnavailable, n)
	}
	if err := e.replay(ctx); err != nil {
		return err
	}
	return e.checkJournal(ctx)
}

// Close lets no more refreshes begin, waits until those in progress are finished and
// saved, and closes the store and the journal. If ctx ends first, Close returns its error
// and logs the connections whose new token was not saved.
func (e *Engine) Close(ctx context.Context) error {
	done := e.lifecycle.close()
	select {
	case <-done:
		return e.release()
	case <-ctx.Done():
		e.logUnsaved(ctx)
		go func() { // the process may live on
			<-done
			_ = e.release()
		}()
		return fmt.Errorf("refreshes are still in progress: %w", ctx.Err())
	}
}

// release closes the store and the journal. No work may be in progress.
func (e *Engine) release() error {
	err := e.closeStore()
	if closer, ok := e.storage.journal.(io.Closer); ok {
		err = errors.Join(err, closer.Close())
	}
	return err
}

// logUnsaved logs the connections whose new token was not saved.
func (e *Engine) logUnsaved(ctx context.Context) {
	for _, p := range e.backlog.list() {
		level, msg := slog.LevelWarn, "the store did not take a refreshed token before the shutdown; the journal has it, and the next process on this machine saves it"
		if !p.journaled.Load() {
			level, msg = slog.LevelError, "neither the store nor the journal took a refreshed token before the shutdown; the connection may have to be authorised again"
		}
		e.Config().Log().LogAttrs(ctx, level, msg, slog.String("connection", p.key.String()))
	}
}

// New returns an engine with an empty configuration. It opens the store when it first needs
// it. If clock or transport is nil a default is used.
func New(open func(context.Context) (record.Store, error), journal record.Journal, clock Clock, transport func(allowPrivate bool) http.RoundTripper) *Engine {
	if clock == nil {
		clock = systemClock{}
	}
	if transport == nil {
		transport = func(allowPrivate bool) http.RoundTripper { return guard.NewTransport(allowPrivate) }
	}
	ctx, end := context.WithCancel(context.Background())
	e := &Engine{
		clock: clock, transport: transport, backlog: newBacklog(),
		storage: storage{open: open, journal: journal}, connections: connections{refreshers: newTable()},
		lifecycle: lifecycle{ctx: ctx, end: end},
	}
	e.cfg.Store(&record.Config{})
	return e
}

// Configure replaces the configuration.
func (e *Engine) Configure(cfg *record.Config) { e.cfg.Store(cfg) }

// Config returns the newest configuration.
func (e *Engine) Config() *record.Config { return e.cfg.Load() }

// acquire counts one more request, and reports false if limit requests are in progress
// already. A negative limit means no limit.
func (f *inFlight) acquire(limit int) bool {
	if f.n.Add(1) > int64(limit) && limit >= 0 {
		f.n.Add(-1)
		return false
	}
	return true
}

// release ends a request that acquire has counted.
func (f *inFlight) release() { f.n.Add(-1) }

// inFlight counts requests in progress. It outlives configurations, as requests do.
type inFlight struct{ n atomic.Int64 }

// inFlightOf returns the counter of an application's requests.
func (e *Engine) inFlightOf(application string) *inFlight {
	if f, ok := e.connections.applications.Load(application); ok {
		return f.(*inFlight)
	}
	f, _ := e.connections.applications.LoadOrStore(application, &inFlight{})
	return f.(*inFlight)
}

// Admit counts a request as in progress until Release. Its error is
// [record.ErrTooManyRequests].
func (r *Refresher) Admit(cfg *record.Config) error {
	if limit := cfg.Limits.PerApplication(r.Key.Application); !r.admissions.application.acquire(limit) {
		r.DropIfUnknown()
		return fmt.Errorf("%w: application %s has %d of them; try again when some have ended",
			record.ErrTooManyRequests, record.Quote(r.Key.Application), limit)
	}
	if limit := cfg.Limits.PerConnection(); !r.admissions.own.acquire(limit) {
		r.admissions.application.release()
		r.DropIfUnknown()
		return fmt.Errorf("%w: this connection has %d of them; try again when some have ended", record.ErrTooManyRequests, limit)
	}
	return nil
}

// Release ends a request that Admit has counted.
func (r *Refresher) Release() {
	r.admissions.own.release()
	r.admissions.application.release()
	r.DropIfUnknown()
}

// Allows returns nil if the snapshot's credential may be sent to u, otherwise
// [record.ErrHostNotAllowed]. Most requests of a connection go to one host, so the last allowed
// host is remembered.
func (s *Snapshot) Allows(cfg *record.Config, conn *record.Connector, u *url.URL) error {
	private := cfg.AllowsPrivate(conn)
	if known := s.allowed.Load(); known != nil &&
		known.conn == conn && known.private == private && known.scheme == u.Scheme && known.host == u.Host {
		return nil
	}
	if err := AllowsHost(cfg, conn, u, s.Record.Settings); err != nil {
		return err
	}
	s.allowed.Store(&allowance{conn, private, u.Scheme, u.Host})
	return nil
}

// AllowsHost returns nil if a credential may be sent to u, otherwise [record.ErrHostNotAllowed].
func AllowsHost(cfg *record.Config, conn *record.Connector, u *url.URL, settings map[string]any) error {
	if err := cfg.DefinitionOf(conn).AllowsHost(u.Scheme, u.Host, settings); err != nil {
		return fmt.Errorf("%w: %w", record.ErrHostNotAllowed, err) // err names the connector
	}
	return nil
}

// injectionsFor renders the injections for requests of a connection. Its error is a
// [*record.TokenError]: a setting or the token is missing, or cannot be put into a request.
func injectionsFor(c *record.Connector, rec *record.Record) ([]connector.Injection, error) {
	token := ""
	if rec.Credentials != nil {
		token = rec.Credentials.AccessToken.Reveal()
	}
	injections, err := c.Injections(rec.Settings, token)
	if err == nil {
		return injections, nil
	}
	failure := &record.TokenError{Key: rec.Key, Class: record.ClassConfiguration, Code: record.CodeInvalidCredential, BadSettings: true, Err: err}
	if fault, ok := errors.AsType[*connector.SettingError](err); ok && fault.IsMissing() || errors.Is(err, connector.ErrNoAccessToken) {
		failure.Code = record.CodeMissingSettings
	}
	return nil, failure
}

// An allowance caches the last host check that a snapshot has passed.
type allowance struct {
	conn         *record.Connector // as configured at the time of the check
	private      bool
	scheme, host string
}

// A preparedCredential is the rendered credential of a snapshot. The next request can use
// it unless the connector was reconfigured.
type preparedCredential struct {
	conn       *record.Connector // as configured when it was rendered
	credential *inject.Credential
}

// maxPrepared is the size in bytes up to which a rendered credential is kept. It uses memory
// until the snapshot is dropped.
const maxPrepared = 1 << 10

// Credential returns the snapshot's credential, rendered for requests.
func (s *Snapshot) Credential(conn *record.Connector) (*inject.Credential, error) {
	if known := s.prepared.Load(); known != nil && known.conn == conn {
		return known.credential, nil
	}
	injections, err := injectionsFor(conn, s.Record)
	if err != nil {
		return nil, err
	}
	credential := inject.Prepare(injections)
	if credential.Size() <= maxPrepared {
		s.prepared.Store(&preparedCredential{conn, credential})
	}
	return credential, nil
}

// UsableAt returns a snapshot whose credential can be used now, and may be sent to u. The
// host is checked before a token is obtained.
func (r *Refresher) UsableAt(ctx context.Context, cfg *record.Config, conn *record.Connector, u *url.URL) (*Snapshot, error) {
	snap, err := r.Latest(ctx)
	if err != nil {
		return nil, err
	}
	if err := snap.Allows(cfg, conn, u); err != nil {
		return nil, err
	}
	checked := snap
	if snap, err = r.usable(ctx, conn, snap); err != nil {
		return nil, err
	}
	if snap != checked { // its settings can differ too
		if err := snap.Allows(cfg, conn, u); err != nil {
			return nil, err
		}
	}
	return snap, nil
}

// Rejected is called when downstream has refused the token of a generation. It parks the
// connection, in the background, if its token cannot be refreshed.
func (r *Refresher) Rejected(conn *record.Connector, generation uint64) {
	snap := r.memory.snap.Load()
	if snap == nil || snap.Record.Generation != generation || snap.Record.Credentials == nil ||
		conn.AuthType != connector.OAuth2 || conn.CanRefresh(snap.Record.Credentials) || snap.Record.IsParked() {
		return
	}
	r.rejectLater(conn, generation)
}

// Now returns the time by the engine's clock.
func (e *Engine) Now() time.Time { return e.clock.Now() }

// StartSpan begins a span as a child of the one in ctx.
func (e *Engine) StartSpan(ctx context.Context, name string, opts ...trace.SpanStartOption) (context.Context, trace.Span) {
	return e.tracing.start(ctx, name, opts...)
}

// RevokeGrant revokes the grant of a deleted connection in the background, if its connector
// has a revocation endpoint.
func (e *Engine) RevokeGrant(cause context.Context, cfg *record.Config, conn *record.Connector, key record.Key, settings map[string]any, access, refresh secret.String) {
	e.revoke(cause, newRevocation(cfg, conn, key, settings, access, refresh))
}
