package storage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"

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
		level := slog.LevelWarn
		if runtime.GOOS == "windows" { // never served there
			level = slog.LevelInfo
		}
		logger.LogAttrs(ctx, level, "commands of the operator cannot use the embedded store while this process runs", slog.String("error", err.Error()))
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
		store, err := s.OpenStore(ctx, opts)
		if errors.Is(err, boltstore.ErrLocked) {
			err = explainUnserved(s.dir, err)
		}
		return store, err
	default:
		return nil, err
	}
}

// explainUnserved adds to the error of a store that a process has open why commands cannot use it
// through that process.
func explainUnserved(dir string, locked error) error {
	info, err := os.Stat(dir)
	if err != nil || runtime.GOOS == "windows" {
		return locked
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("%w; or, to use it through that process, chmod 700 %s, which has mode %04o, and restart the process", locked, dir, mode)
	}
	return fmt.Errorf("%w; or, to use it through that process, restart it: it has no socket for commands, and its log says why", locked)
}
