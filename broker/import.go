package broker

import (
	"context"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/tokenbroker/caddy-token-broker/broker/internal/pace"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/tracing"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// An Imported is what an import did, or would do.
type Imported struct {
	Connection    *record.Connection // afterwards
	Outcome       record.ImportOutcome
	Created       bool // there was no connection
	RefreshQueued bool // the token needs a refresh
}

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
func (b *Broker) Import(ctx context.Context, key record.Key, imp *record.Import) (_ *Imported, err error) {
	i := importing{key: key, imp: imp, now: b.engine.Now()}
	ctx, span := b.engine.StartSpan(ctx, "token_broker.import", trace.WithAttributes(tracing.ConnectorAttribute(key)))
	defer func() {
		if err == nil {
			span.SetAttributes(attribute.String("token_broker.import.outcome", string(i.outcome)))
		}
		tracing.EndSpan(span, err)
	}()
	cfg := b.Config()
	if err := i.check(cfg); err != nil {
		return nil, err
	}
	r := b.engine.Refresher(key)
	defer r.DropIfUnknown()
	rec, rev, err := b.engine.CreateOrUpdate(ctx, r, func(old *record.Record) (*record.Record, error) {
		rec, err := i.apply(old)
		if i.replaced {
			rec.Generation = max(rec.Generation, r.HighestSeen()+1)
		}
		return rec, err
	})
	if err != nil {
		return nil, err
	}
	if imp.Warning() != "" {
		cfg.Log().LogAttrs(ctx, slog.LevelWarn, "imported token has a lifetime of 3600000 seconds or more; expires_in is in seconds, not milliseconds",
			slog.String("connection", key.String()), slog.Duration("lifetime", *imp.Credentials.ExpiresIn))
	}
	r.Install(rec, rev)
	if i.replaced {
		b.engine.DestroyEarlier(ctx, key, rev)
	}
	if rec.Cycle.Queued {
		r.Start(ctx, pace.Imported)
	}
	if imp.Standby != nil && *imp.Standby {
		if err := b.waiter.Wait(ctx, rec); err != nil {
			return nil, err
		}
	}
	return i.done(rec), nil
}

// An importing is one import, which may be applied several times until it is stored.
type importing struct {
	key  record.Key
	imp  *record.Import
	now  time.Time
	conn *record.Connector

	// What the last apply did.
	outcome  record.ImportOutcome
	created  bool
	replaced bool // the credentials
}

// check finds the connector, and checks what does not depend on the stored record.
func (i *importing) check(cfg *record.Config) (err error) {
	if i.conn, err = cfg.ConnectorOf(i.key); err != nil {
		return err
	}
	if i.imp.ConsumerID != "" && i.imp.ConsumerID != i.key.Consumer {
		return &record.InputError{
			Kind: record.InputInvalid, Field: "consumer_id",
			Fault: "is not the consumer of the x-apideck-consumer-id header", Fix: "send the same id, or leave it out",
		}
	}
	return nil
}

// apply returns the record after the import. old may be nil.
func (i *importing) apply(old *record.Record) (rec *record.Record, err error) {
	rec = old
	if i.created = old == nil || old.IsTombstone(); i.created {
		rec = record.New(i.key, old, i.now)
	}
	before := rec.Generation
	i.outcome, err = rec.Import(i.conn, i.imp, i.now)
	i.replaced = rec.Generation != before
	return rec, err
}

func (i *importing) done(rec *record.Record) *Imported {
	view := rec.View(&i.conn.Definition, i.now)
	return &Imported{Connection: &view, Outcome: i.outcome, Created: i.created, RefreshQueued: rec.Cycle.Queued}
}
