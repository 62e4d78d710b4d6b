package storage

import (
	"context"
	"errors"
	"log/slog"

	"github.com/tokenbroker/caddy-token-broker/broker/boltstore"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/storesocket"
)

// A servedStore is an embedded store that commands of the operator can use.
type servedStore struct {
	*boltstore.Store
	server *storesocket.Server
}

// serve serves a store to commands of the operator, if that is safe.
func serve(ctx context.Context, dir string, store *boltstore.Store, logger *slog.Logger) record.Store {
	server, err := storesocket.Serve(dir, store, logger)
	if err != nil {
		logger.LogAttrs(ctx, slog.LevelInfo, "commands of the operator cannot use the embedded store while this process runs", slog.String("error", err.Error()))
		return store
	}
	return &servedStore{Store: store, server: server}
}

// Close implements [io.Closer].
func (s *servedStore) Close() error {
	return errors.Join(s.server.Close(), s.Store.Close())
}

// OpenServed implements [ServedStorage].
func (s *Embedded) OpenServed(ctx context.Context, opts OpenOptions) (record.Store, error) {
	store, err := storesocket.Dial(ctx, s.dir)
	switch {
	case err == nil:
		return store, nil
	case errors.Is(err, storesocket.ErrNotServed):
		return s.OpenStore(ctx, opts)
	default:
		return nil, err
	}
}
