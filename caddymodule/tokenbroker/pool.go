package tokenbroker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/tokenbroker/caddy-token-broker/broker"
	"github.com/tokenbroker/caddy-token-broker/broker/journal"
	"github.com/tokenbroker/caddy-token-broker/broker/webhook"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/storage"
)

// pool holds what outlives configurations, by what it is stored in: two brokers over
// one store would spend each other's refresh tokens.
var pool = caddy.NewUsagePool()

// How long the last configuration waits for what is under way when it goes.
const (
	closeMargin     = 5 * time.Second // on top of the timeout of a refresh
	webhooksTimeout = 5 * time.Second
)

// A shared is what configurations with the same storage share: one after the other
// or, during a reload, two at a time. It keeps nothing of any of them but the newest.
type shared struct {
	broker   *broker.Broker
	webhooks *webhook.Dispatcher
	newest   atomic.Pointer[App] // that everything goes by; never nil

	mu     sync.Mutex
	active []*App // guarded by mu; in the order in which they were started
}

func newShared(first *App) *shared {
	s := &shared{webhooks: webhook.New()}
	s.newest.Store(first)
	s.broker = broker.New(broker.Options{
		Open:    s.open,
		Journal: journal.Open(journal.Config{Dir: first.journalDir(), Logger: slog.New(newestHandler{shared: s})}),
	})
	s.activate(first)
	return s
}

// open opens the store as the newest configuration says.
func (s *shared) open(ctx context.Context) (broker.Store, error) {
	return s.newest.Load().storage.OpenStore(ctx, storage.OpenOptions{
		Latest: func() storage.Storage { return s.newest.Load().storage },
		Logger: slog.New(newestHandler{shared: s}),
	})
}

// journalDir is where the journal of a's broker is.
func (a *App) journalDir() string {
	dir := a.Journal
	if dir == "" {
		dir = filepath.Join(caddy.AppDataDir(), "token-broker", "journal")
	}
	// Each storage has its own: an answer that another one waits for means nothing here.
	sum := sha256.Sum256([]byte(a.storage.StorageKey()))
	return filepath.Join(dir, hex.EncodeToString(sum[:8]))
}

// activate makes a the newest configuration.
func (s *shared) activate(a *App) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active = append(slices.DeleteFunc(s.active, func(other *App) bool { return other == a }), a)
	s.configure(a)
}

// deactivate forgets a. If it was the newest, the one before it counts again: Caddy
// goes back to the old configuration if an app of the new one fails to start.
func (s *shared) deactivate(a *App) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active = slices.DeleteFunc(s.active, func(other *App) bool { return other == a })
	if n := len(s.active); n > 0 && s.newest.Load() == a {
		s.configure(s.active[n-1])
	}
}

// configure is called with mu held.
func (s *shared) configure(a *App) {
	s.newest.Store(a)
	config := *a.config
	config.Events = s.webhooks
	s.broker.Configure(&config)
	if err := s.webhooks.Configure(webhook.Config{Endpoints: a.endpoints, Logger: a.logger}); err != nil {
		// Provision has checked the same things.
		a.logger.LogAttrs(a.ctx, slog.LevelError, "webhooks stay as they were", slog.String("error", err.Error()))
	}
}

// Destruct implements [caddy.Destructor]. Caddy calls it from the Cleanup of the last
// configuration and, when it exits, waits for it.
func (s *shared) Destruct() error {
	timeout := s.newest.Load().config.RefreshTimeout
	if timeout <= 0 {
		timeout = broker.DefaultRefreshTimeout
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout+closeMargin)
	defer cancel()
	err := s.broker.Close(ctx)
	// After the broker: what it finished just now may be an event.
	ctx, cancel = context.WithTimeout(context.Background(), webhooksTimeout)
	defer cancel()
	return errors.Join(err, s.webhooks.Close(ctx))
}

// acquire takes hold of what is shared by the configurations with a's storage. If
// there was none, the broker goes by a at once, for handlers may be called before
// a is started; otherwise only then, for a may never be.
func (a *App) acquire() error {
	a.poolKey = a.storage.StorageKey()
	value, _, err := pool.LoadOrNew(a.poolKey, func() (caddy.Destructor, error) { return newShared(a), nil })
	if err != nil {
		return fmt.Errorf("token broker: %w", err)
	}
	a.shared, a.acquired = value.(*shared), true
	return nil
}

func (a *App) release() error {
	a.shared.deactivate(a)
	_, err := pool.Delete(a.poolKey)
	return err
}

// newestHandler logs to the newest configuration's logger, for what outlives the one
// that opened it.
type newestHandler struct {
	shared *shared
	with   []func(slog.Handler) slog.Handler
}

func (h newestHandler) handler() slog.Handler {
	handler := h.shared.newest.Load().logger.Handler()
	for _, with := range h.with {
		handler = with(handler)
	}
	return handler
}

// Enabled implements [slog.Handler].
func (h newestHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.handler().Enabled(ctx, level)
}

// Handle implements [slog.Handler].
func (h newestHandler) Handle(ctx context.Context, r slog.Record) error {
	return h.handler().Handle(ctx, r)
}

// WithAttrs implements [slog.Handler].
func (h newestHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	h.with = append(slices.Clip(h.with), func(next slog.Handler) slog.Handler { return next.WithAttrs(attrs) })
	return h
}

// WithGroup implements [slog.Handler].
func (h newestHandler) WithGroup(name string) slog.Handler {
	h.with = append(slices.Clip(h.with), func(next slog.Handler) slog.Handler { return next.WithGroup(name) })
	return h
}

// Interface guards
var (
	_ caddy.Destructor = (*shared)(nil)
	_ slog.Handler     = newestHandler{}
)
