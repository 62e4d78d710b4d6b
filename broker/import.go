package broker

import (
	"context"
	"log/slog"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/tokenbroker/caddy-token-broker/broker/internal/pace"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/tracing"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// Import creates or updates the connection of key. If the token needs a refresh, one
// begins in the background; Import does not wait for it.
//
// Repeating an import never breaks a connection: credentials that are known to be older
// than the stored ones do not replace them.
//
// An import that puts the connection into standby waits, as [Broker.EnterStandby] does.
//
// Errors: [*record.InputError], [record.ErrConnectorNotFound], [record.ErrRefreshing],
// [record.ErrStoreUnavailable]. After the first two nothing was stored; after the others it may
// have been.
func (b *Broker) Import(ctx context.Context, key record.Key, imp *record.Import) (_ *record.Connection, outcome record.ImportOutcome, err error) {
	ctx, span := b.engine.StartSpan(ctx, "token_broker.import", trace.WithAttributes(tracing.ConnectorAttribute(key)))
	defer func() {
		span.SetAttributes(attribute.String("token_broker.import.outcome", string(outcome)))
		tracing.EndSpan(span, err)
	}()
	cfg := b.Config()
	conn, err := cfg.ConnectorOf(key)
	if err != nil {
		return nil, "", err
	}
	if imp.ConsumerID != "" && imp.ConsumerID != key.Consumer {
		return nil, "", &record.InputError{
			Kind: record.InputInvalid, Field: "consumer_id",
			Fault: "is not the consumer of the x-apideck-consumer-id header", Fix: "send the same id, or leave it out",
		}
	}
	now := b.engine.Now()
	r := b.engine.Refresher(key)
	defer r.DropIfUnknown()
	var replaced bool
	rec, rev, err := b.engine.CreateOrUpdate(ctx, r, func(old *record.Record) (*record.Record, error) {
		rec := old
		if rec == nil || rec.IsTombstone() {
			rec = record.New(key, rec, now)
		}
		before := rec.Generation
		outcome, err = rec.Import(conn, imp, now)
		if replaced = rec.Generation != before; replaced {
			rec.Generation = max(rec.Generation, r.HighestSeen()+1)
		}
		return rec, err
	})
	if err != nil {
		return nil, "", err
	}
	if imp.Warning() != "" {
		cfg.Log().LogAttrs(ctx, slog.LevelWarn, "imported token has a lifetime of 3600000 seconds or more; expires_in is in seconds, not milliseconds",
			slog.String("connection", key.String()), slog.Duration("lifetime", *imp.Credentials.ExpiresIn))
	}
	r.Install(rec, rev)
	if replaced {
		b.engine.DestroyEarlier(ctx, key, rev)
	}
	if rec.Cycle.Queued {
		r.Start(ctx, pace.Imported)
	}
	if imp.Standby != nil && *imp.Standby {
		if err := b.waiter.Wait(ctx, rec); err != nil {
			return nil, "", err
		}
	}
	view := rec.View(&conn.Definition, now)
	return &view, outcome, nil
}
