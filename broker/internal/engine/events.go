package engine

import (
	"context"
	"log/slog"

	"github.com/google/uuid"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// An eventLine is how an event is logged, besides its type and connection.
type eventLine struct {
	level slog.Level
	attrs func(*record.Record) []slog.Attr // nil: none
}

// eventLines has the line of every event type.
var eventLines = map[record.EventType]eventLine{
	record.EventRefreshPending:   {slog.LevelWarn, failureAttrs},
	record.EventRefreshFailed:    {slog.LevelWarn, failureAttrs},
	record.EventRefreshRecovered: {slog.LevelInfo, nil},
}

// failureAttrs says how the last refresh failed, and when the next is due.
func failureAttrs(rec *record.Record) []slog.Attr {
	attrs := []slog.Attr{
		slog.String("class", string(rec.Cycle.Class)), slog.String("code", rec.Cycle.Code),
		slog.Int("attempts", rec.Cycle.Attempts),
	}
	if rec.Cycle.Detail != "" {
		attrs = append(attrs, slog.String("detail", rec.Cycle.Detail))
	}
	if !rec.Cycle.RetryAt.IsZero() {
		attrs = append(attrs, slog.Time("retry_at", rec.Cycle.RetryAt))
	}
	return attrs
}

// emit logs an event and passes it to the configured sink. The change that it reports has
// been saved by this process. If event is empty, emit does nothing.
func (e *Engine) emit(ctx context.Context, cfg *record.Config, conn *record.Connector, event record.EventType, rec *record.Record) {
	if event == "" {
		return
	}
	line := eventLines[event]
	attrs := []slog.Attr{slog.String("connection", rec.Key.String())}
	if line.attrs != nil {
		attrs = append(attrs, line.attrs(rec)...)
	}
	cfg.Log().LogAttrs(ctx, line.level, string(event), attrs...)
	if cfg.Events == nil {
		return
	}
	now := e.clock.Now()
	cfg.Events.Emit(ctx, record.Event{ID: uuid.NewString(), Type: event, OccurredAt: now, Connection: rec.View(&conn.Definition, now)})
}
