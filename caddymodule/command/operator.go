package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/caddyserver/caddy/v2"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/storage"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/tokenbroker"
)

// An operatorStore is a store that a command has open: its operator can read all secrets.
type operatorStore struct {
	record.Store

	storage storage.Storage
	cancel  context.CancelFunc // of the modules of its configuration
}

// openConfigured opens the store that a configuration names, through the process that has it open
// if no other can. It refuses a store for which the journal of this machine has token responses
// of a process that has ended. Unless create is set, a store that does not exist is an error.
func openConfigured(ctx context.Context, path, adapter string, create bool) (*operatorStore, error) {
	app, err := loadApp(path, adapter)
	if err != nil {
		return nil, err
	}
	return openStoreOf(ctx, app, path, storage.OpenOptions{Existing: !create}, func(err error) error { return err })
}

// openStoreOf opens the store of the configuration at path. journal gets the error of
// [tokenbroker.App.CheckJournal], if there is one, and returns the error that ends it.
func openStoreOf(ctx context.Context, app *tokenbroker.App, path string, opts storage.OpenOptions, journal func(error) error) (_ *operatorStore, err error) {
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
	opts.Logger, opts.Latest = warnings(), func() storage.Storage { return s.storage }
	if err := app.CheckJournal(ctx, opts.Logger); err != nil {
		if err = journal(err); err != nil {
			return nil, err
		}
	}
	open := s.storage.OpenStore
	if served, ok := s.storage.(storage.ServedStorage); ok {
		open = served.OpenServed
	}
	if s.Store, err = open(ctx, opts); err != nil {
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

// warnings returns the logger of commands.
func warnings() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
}
