package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/caddyserver/caddy/v2"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/storage"
)

// An operatorStore is a store that a command has open: its operator can read all secrets.
type operatorStore struct {
	record.Store

	storage storage.Storage
	cancel  context.CancelFunc // of the modules of its configuration
}

// openConfigured opens the store that a configuration names, through the process that has it open
// if no other can. It refuses a store for which the journal of this machine has token responses
// of a process that has ended.
func openConfigured(ctx context.Context, path, adapter string) (_ *operatorStore, err error) {
	app, err := loadApp(path, adapter)
	if err != nil {
		return nil, err
	}
	modules, cancel := caddy.NewContext(caddy.Context{Context: ctx})
	s := &operatorStore{cancel: cancel}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%s: %w", path, errors.Join(err, s.Close()))
		}
	}()
	if s.storage, err = app.ResolveStorage(modules); err != nil {
		return nil, err
	}
	logger := warnings()
	if err := app.CheckJournal(ctx, logger); err != nil {
		return nil, err
	}
	open := s.storage.OpenStore
	if served, ok := s.storage.(storage.ServedStorage); ok {
		open = served.OpenServed
	}
	latest := func() storage.Storage { return s.storage }
	if s.Store, err = open(ctx, storage.OpenOptions{Latest: latest, Logger: logger}); err != nil {
		return nil, err
	}
	if checked, ok := s.Store.(record.CheckedStore); ok {
		return s, checked.Check(ctx)
	}
	return s, nil
}

// resolveStorage returns the storage that a configuration names, without opening it.
func resolveStorage(path, adapter string) (storage.Storage, error) {
	app, err := loadApp(path, adapter)
	if err != nil {
		return nil, err
	}
	modules, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	defer cancel()
	s, err := app.ResolveStorage(modules)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

// Close closes the store.
func (s *operatorStore) Close() error {
	defer s.cancel()
	if closer, ok := s.Store.(io.Closer); ok {
		return closer.Close()
	}
	return nil
}

// interruptible returns a context that ends when the process is asked to end.
func interruptible() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
}

// warnings returns the logger of commands.
func warnings() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
}
