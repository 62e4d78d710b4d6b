// Package storage has the modules token_broker.storage.vault and
// token_broker.storage.embedded: where connections are stored.
package storage

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// A Storage is a module in the namespace token_broker.storage. Until OpenStore is called
// it touches no network, file or lock.
type Storage interface {
	// String describes the store and where it is, for the log.
	fmt.Stringer

	// StorageKey identifies the store. Configurations with the same key share one open
	// store, which survives reloads. The key contains nothing secret.
	StorageKey() string

	// OpenStore opens the store. The context has a deadline.
	OpenStore(ctx context.Context, opts OpenOptions) (record.Store, error)
}

// A ServedStorage is a storage whose store only one process at a time can open.
type ServedStorage interface {
	Storage

	// OpenServed opens the store, through the process that has it open if there is one.
	OpenServed(ctx context.Context, opts OpenOptions) (record.Store, error)
}

// OpenOptions is for stores that outlive the configuration that opened them.
type OpenOptions struct {
	// Latest returns the newest configuration's storage, which has the same StorageKey. Use
	// it for settings that may change while the store stays open, such as credentials.
	Latest func() Storage

	// Serve lets commands of the operator on this machine use the store while it is open, if
	// no other process can open it.
	Serve bool

	// Existing refuses to create a store: opening one that does not exist is an error.
	Existing bool

	// Logger follows the newest configuration.
	Logger *slog.Logger
}
