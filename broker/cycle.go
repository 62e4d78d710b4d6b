package broker

import (
	"context"
	"errors"
	"log/slog"

	"github.com/google/uuid"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// reject parks a connection that has no way to another token, for good: its token
// has expired, or downstream refused it. It returns the error for callers.
func (r *refresher) reject(ctx context.Context, cfg *Config, conn *record.Connector, generation uint64, code string) error {
	b := r.broker
	now := b.clock.Now()
	var event record.EventType
	rec, rev, err := b.update(ctx, r.key, func(rec *record.Record) (*record.Record, error) {
		if rec == nil || rec.IsTombstone() || rec.Generation != generation || rec.Credentials == nil || rec.IsParked() {
			return nil, errSuperseded
		}
		event = rec.Fail(record.Answer{Class: record.ClassPermanent, Code: code}, record.Policy{Retention: cfg.retention()}, now)
		return rec, nil
	})
	failure := &record.TokenError{Key: r.key, Class: record.ClassPermanent, Code: code, Parked: true, FailedAt: now}
	switch {
	case err == nil:
		r.install(rec, rev, now)
		b.emit(ctx, cfg, conn, event, rec)
	case !errors.Is(err, errSuperseded):
		failure.Err = err
	}
	return failure
}

// rejectInBackground is reject for a caller that has its answer already.
func (r *refresher) rejectInBackground(conn *record.Connector, generation uint64) {
	r.react(func() {
		ctx, cancel := context.WithTimeout(context.Background(), openTimeout)
		defer cancel()
		_ = r.reject(ctx, r.broker.Config(), conn, generation, record.CodeAccessTokenRejected)
	})
}

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
