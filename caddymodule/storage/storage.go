package storage

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/tokenbroker/caddy-token-broker/broker"
)

// A Storage says where connections are stored. Modules in the namespace
// token_broker.storage implement it. Until OpenStore is called they touch neither
// network nor file nor lock.
type Storage interface {
	// String says in words what connections are stored in, and where.
	fmt.Stringer

	// StorageKey tells stores apart: configurations with the same key share one store,
	// which stays open from one to the next. It has nothing secret in it.
	StorageKey() string

	// OpenStore opens the store. The context has a deadline.
	OpenStore(ctx context.Context, opts OpenOptions) (broker.Store, error)
}

// OpenOptions is what a store needs that outlives the configuration which opened it.
type OpenOptions struct {
	// Latest returns the storage of the newest configuration, of the same StorageKey,
	// for what may change while the store stays open, such as a login.
	Latest func() Storage

	// Logger logs wherever the newest configuration says.
	Logger *slog.Logger
}
