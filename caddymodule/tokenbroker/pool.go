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
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/webhook"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/storage"
)

// pool holds the state that outlives configurations, by StorageKey. Two brokers on one store
// would spend each other's refresh tokens.
var pool = caddy.NewUsagePool()

// How long Destruct waits for work in progress.
const (
	closeMargin     = 5 * time.Second // in addition to the timeout of a refresh
	webhooksTimeout = 5 * time.Second
)

// shared is the state that outlives a reload, one per storage. During a reload two
// configurations use it. It follows the newest.
type shared struct {
	broker   *broker.Broker
	webhooks *webhook.Dispatcher
	journal  string              // the directory in use
	newest   atomic.Pointer[App] // never nil

	mu     sync.Mutex
	active []*App // guarded by mu; the oldest first
}

func newShared(first *App) *shared {
	s := &shared{webhooks: webhook.New(), journal: first.JournalDir()}
	s.newest.Store(first)
	s.broker = broker.New(broker.Options{
		Open:    s.open,
		Journal: journal.Open(journal.Config{Dir: s.journal, Logger: slog.New(newestHandler{shared: s})}),
	})
	s.activate(first)
	return s
}

// open opens the store with the newest configuration.
func (s *shared) open(ctx context.Context) (record.Store, error) {
	return s.newest.Load().storage.OpenStore(ctx, storage.OpenOptions{
		Latest: func() storage.Storage { return s.newest.Load().storage },
		Logger: slog.New(newestHandler{shared: s}), Serve: true,
	})
}

// JournalDir returns the directory of the journal of its storage.
func (a *App) JournalDir() string {
	dir := a.Journal
	if dir == "" {
		dir = filepath.Join(caddy.AppDataDir(), "token-broker", "journal")
	}
	// One per storage: a response journaled for one store must not be replayed into another.
	sum := sha256.Sum256([]byte(a.storage.StorageKey()))
	return filepath.Join(dir, hex.EncodeToString(sum[:8]))
}

// activate makes a the newest configuration.
func (s *shared) activate(a *App) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active = append(slices.DeleteFunc(s.active, func(other *App) bool { return other == a }), a)
	s.configure(a)
	if dir := a.JournalDir(); dir != s.journal {
		a.logger.LogAttrs(a.ctx, slog.LevelWarn, "another journal is used only after a restart",
			slog.String("in_use", s.journal), slog.String("configured", dir))
	}
}

// deactivate removes a. If it was the newest, the one before it takes over: Caddy returns to
// the old configuration if an app of the new one fails to start.
func (s *shared) deactivate(a *App) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active = slices.DeleteFunc(s.active, func(other *App) bool { return other == a })
	if n := len(s.active); n > 0 && s.newest.Load() == a {
		s.configure(s.active[n-1])
	}
}

// configure makes a the newest configuration. The caller holds mu.
func (s *shared) configure(a *App) {
	s.newest.Store(a)
	config := *a.config
	config.Events = s.webhooks
	s.broker.Configure(&config)
	if err := s.webhooks.Configure(webhook.Config{Endpoints: a.endpoints, Logger: a.logger}); err != nil {
		// Cannot happen: Provision has validated the endpoints.
		a.logger.LogAttrs(a.ctx, slog.LevelError, "could not apply the new webhooks; the old ones stay in use", slog.String("error", err.Error()))
	}
}

// Destruct implements [caddy.Destructor]. It runs in the Cleanup of the last configuration,
// which Caddy waits for when it exits.
func (s *shared) Destruct() error {
	timeout := s.newest.Load().config.RefreshTimeout
	if timeout <= 0 {
		timeout = record.DefaultRefreshTimeout
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout+closeMargin)
	defer cancel()
	err := s.broker.Close(ctx)
	// After the broker, whose last refreshes may have caused events.
	ctx, cancel = context.WithTimeout(context.Background(), webhooksTimeout)
	defer cancel()
	return errors.Join(err, s.webhooks.Close(ctx))
}

// acquire gets the state shared by configurations with a's storage. New state follows a at
// once, since handlers may be called before a starts. Existing state follows a only when a
// starts, which may never happen.
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

// newestHandler logs to the newest configuration's logger, for what outlives the
// configuration that created it.
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
