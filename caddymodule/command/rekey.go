package command

import (
	"context"
	"errors"
	"fmt"

	"github.com/caddyserver/caddy/v2"

	"github.com/tokenbroker/caddy-token-broker/caddymodule/storage"
)

// rekey gives the embedded store a new key.
func (c *storeCommand) rekey(ctx context.Context) error {
	app, store, err := c.embedded()
	if err != nil {
		return err
	}
	next, err := c.next(ctx, store)
	if err != nil {
		return err
	}
	if err := app.CheckJournal(ctx, warnings()); err != nil {
		return err
	}
	n, err := store.Rekey(ctx, next)
	if err != nil {
		return err
	}
	if err := app.RenewJournalKey(); err != nil {
		return err
	}
	fmt.Fprintf(c.out, "%d records are encrypted with the new key. The old key is destroyed here; destroy it in backups too.\n", n)
	if c.key != "" || c.keyFile != "" {
		fmt.Fprintln(c.out, "Before you start the server, say in its configuration where the new key is.")
	}
	return nil
}

// next returns the store with its new key.
func (c *storeCommand) next(ctx context.Context, store *storage.Embedded) (*storage.Embedded, error) {
	next := &storage.Embedded{Dir: store.Dir, Key: store.Key, KeyFile: store.KeyFile}
	switch {
	case c.key != "" || c.keyFile != "":
		next.Key, next.KeyFile = c.key, c.keyFile
	case store.Key != "":
		return nil, errors.New("the configuration has the key itself: make a new one, and say where it is with --key or --key-file")
	}
	if err := next.Provision(caddy.Context{Context: ctx}); err != nil {
		return nil, fmt.Errorf("the new key: %w", err)
	}
	return next, nil
}
