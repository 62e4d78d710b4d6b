package boltstore

import (
	"context"
	"log/slog"

	"github.com/tokenbroker/caddy-token-broker/broker/internal/keyfile"
)

// WarnIfExposed logs a warning if others can replace the store's files or read its key.
func (s *Store) WarnIfExposed(ctx context.Context, logger *slog.Logger) {
	keyfile.WarnIfExposed(ctx, logger, s.dir)
}
