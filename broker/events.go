package broker

import (
	"context"
	"log/slog"

	"github.com/google/uuid"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// emit tells of a change that this process has saved.
func (b *Broker) emit(ctx context.Context, cfg *Config, conn *record.Connector, event record.EventType, rec *record.Record) {
	if event == "" {
		return
	}
	level := slog.LevelInfo
	if event != record.EventRefreshRecovered {
		level = slog.LevelWarn
	}
	attrs := []slog.Attr{slog.String("connection", rec.Key.String())}
	if event != record.EventRefreshRecovered {
		attrs = append(attrs, slog.String("class", string(rec.Cycle.Class)), slog.String("code", rec.Cycle.Code),
			slog.Int("attempts", rec.Cycle.Attempts))
	}
	if !rec.Cycle.RetryAt.IsZero() {
		attrs = append(attrs, slog.Time("retry_at", rec.Cycle.RetryAt))
	}
	cfg.logger().LogAttrs(ctx, level, string(event), attrs...)
	if cfg.Events == nil {
		return
	}
	now := b.clock.Now()
	cfg.Events.Emit(ctx, record.Event{ID: uuid.NewString(), Type: event, OccurredAt: now, Connection: rec.View(&conn.Definition, now)})
}
