package tokenbroker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/caddyserver/caddy/v2"

	"github.com/tokenbroker/caddy-token-broker/broker/journal"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/storage"
)

// ResolveStorage returns the storage of a configuration that is not provisioned, for commands.
// No other part of the configuration is resolved, so that its secrets are not needed.
func (a *App) ResolveStorage(ctx caddy.Context) (storage.Storage, error) {
	a.ctx = ctx
	if err := a.provisionStorage(); err != nil {
		return nil, err
	}
	return a.storage, nil
}

// CheckJournal returns an error if the journal of the storage has token responses that the
// store has not taken: a process that has ended left them behind. Call it after
// [App.ResolveStorage].
func (a *App) CheckJournal(ctx context.Context, logger *slog.Logger) (err error) {
	dir := a.JournalDir()
	j := journal.Open(journal.Config{Dir: dir, Logger: logger})
	defer func() { err = errors.Join(err, j.Close()) }()
	entries := 0
	for _, err := range j.Entries(ctx) {
		if err != nil {
			return fmt.Errorf("reading the journal: %w", err)
		}
		entries++
	}
	if entries > 0 {
		return fmt.Errorf("the journal in %s has %d token responses that the store has not taken yet: "+
			"start the broker with this configuration, wait until it is ready, and try again", dir, entries)
	}
	return nil
}
