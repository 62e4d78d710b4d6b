package tokenbroker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"

	"github.com/caddyserver/caddy/v2"

	"github.com/tokenbroker/caddy-token-broker/broker/journal"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/storage"
)

// StorageModule returns the name of the storage's module, such as "vault".
func (a *App) StorageModule() string {
	var w struct {
		Module string `json:"module"`
	}
	if a.StorageRaw != nil {
		_ = json.Unmarshal(a.StorageRaw, &w) // ResolveStorage returns the error
		return w.Module
	}
	return a.defaultStorage()
}

// ResolveStorage returns the storage of a configuration that is not provisioned, for commands.
// No other part of the configuration is resolved, so that its secrets are not needed.
func (a *App) ResolveStorage(ctx caddy.Context) (storage.Storage, error) {
	a.ctx = ctx
	if err := a.provisionStorage(); err != nil {
		return nil, err
	}
	return a.storage, nil
}

// RenewJournalKey lets the next process make a new key for the journal of the storage, which no
// process may use. Call it after [App.CheckJournal].
func (a *App) RenewJournalKey() error {
	if err := journal.RemoveKey(a.JournalDir()); err != nil {
		return fmt.Errorf("removing the key of the journal: %w", err)
	}
	return nil
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
