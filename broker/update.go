package broker

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel/trace"

	"github.com/tokenbroker/caddy-token-broker/broker/internal/tracing"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// Update changes the settings and metadata of a connection, and enables or disables it.
// Settings and metadata are merge patches, as in an import; a masked value leaves the
// setting as it is. Calls of a disabled connection get no credential: in this process from
// the next call on, in others within [record.Config.CacheTTL].
//
// Errors: [*record.InputError], [record.ErrConnectorNotFound], [record.ErrConnectionNotFound],
// [record.ErrRecordTooLarge], [record.ErrStoreUnavailable]. After the last it may have been stored.
func (b *Broker) Update(ctx context.Context, key record.Key, up *record.Update) (_ *record.Connection, err error) {
	ctx, span := b.engine.StartSpan(ctx, "token_broker.update", trace.WithAttributes(tracing.ConnectorAttribute(key)))
	defer func() { tracing.EndSpan(span, err) }()
	conn, err := b.Config().ConnectorOf(key)
	if err != nil {
		return nil, err
	}
	r := b.engine.Refresher(key)
	defer r.DropIfUnknown()
	var replaced bool
	rec, rev, err := b.engine.Update(ctx, key, func(rec *record.Record) (*record.Record, error) {
		if rec == nil || rec.IsTombstone() {
			return nil, record.ConnectionNotFound(key)
		}
		before := rec.Generation
		if err := rec.Apply(conn, up); err != nil {
			return nil, err
		}
		if replaced = rec.Generation != before; replaced {
			rec.Generation = max(rec.Generation, r.HighestSeen()+1)
		}
		rec.UpdatedAt = b.engine.Now()
		return rec, nil
	})
	if errors.Is(err, record.ErrUnchanged) {
		return b.show(ctx, conn, key)
	}
	if err != nil {
		return nil, err
	}
	r.Install(rec, rev)
	if replaced {
		b.engine.DestroyEarlier(ctx, key, rev)
	}
	view := rec.View(&conn.Definition, b.engine.Now())
	return &view, nil
}
