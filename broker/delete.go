package broker

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	"github.com/tokenbroker/caddy-token-broker/broker/internal/revocation"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/tracing"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// Delete removes a connection. Its record becomes a tombstone without secrets, so that a
// writer that is unaware of the deletion cannot bring the connection back, and earlier
// revisions are destroyed in the store. If the connector has a revocation endpoint, the
// grant is revoked there in the background (RFC 7009); the outcome is only logged.
// That of a connection in standby is not revoked: another system uses it.
// Importing the same tokens again therefore fails, unless the import comes before the
// revocation, which is then abandoned. Errors: [*record.InputError],
// [record.ErrConnectorNotFound], [record.ErrConnectionNotFound], [record.ErrStoreUnavailable].
func (b *Broker) Delete(ctx context.Context, key record.Key) (err error) {
	ctx, span := b.engine.StartSpan(ctx, "token_broker.delete", trace.WithAttributes(tracing.ConnectorAttribute(key)))
	defer func() { tracing.EndSpan(span, err) }()
	if err := key.Validate(); err != nil {
		return err
	}
	cfg := b.Config()
	now := b.engine.Now()
	r := b.engine.Refresher(key)
	defer r.DropIfUnknown()
	var last *record.Record
	tombstone, rev, err := b.engine.UpdateWith(ctx, key, b.engine.SaveTombstone, func(rec *record.Record) (*record.Record, error) {
		if rec == nil || rec.IsTombstone() {
			// An unconfigured connector may have connections from when it was configured.
			if _, err := cfg.ConnectorOf(key); err != nil {
				return nil, err
			}
			return nil, record.ConnectionNotFound(key)
		}
		last = rec
		return &record.Record{
			Key: key, CreatedAt: rec.CreatedAt, UpdatedAt: now, Deleted: now, Standby: rec.Standby,
			Generation: max(rec.Generation, r.HighestSeen()) + 1,
		}, nil
	})
	if err != nil {
		return err
	}
	r.Install(tombstone, rev)
	b.engine.DestroyEarlier(ctx, key, rev)
	if c := last.Credentials; c != nil && !last.Standby {
		b.engine.RevokeGrant(ctx, revocation.Grant{
			Config: cfg, Connector: cfg.Connectors[key.Connector], Key: key, Settings: last.Settings, AccessToken: c.AccessToken, RefreshToken: c.RefreshToken,
		})
	}
	return nil
}

// DeleteConsumer removes all connections of a consumer as [Broker.Delete] does, including
// those whose connector is no longer configured. After an error some may have been
// removed; the call can be repeated. Errors: [*record.InputError], [record.ErrConsumerNotFound],
// [record.ErrStoreUnavailable], ctx's.
func (b *Broker) DeleteConsumer(ctx context.Context, application, consumer string) (err error) {
	ctx, span := b.engine.StartSpan(ctx, "token_broker.delete_consumer")
	defer func() { tracing.EndSpan(span, err) }()
	if err := record.CheckName(record.InputSyntax, "consumer_id", consumer); err != nil {
		return err
	}
	keys, err := b.keys(ctx, application, consumer)
	if err != nil {
		return err
	}
	if len(keys) == 0 {
		return fmt.Errorf("%w: it has no connections", record.ErrConsumerNotFound)
	}
	var deleted atomic.Int64
	var deletes errgroup.Group // without a context, so that a failure does not stop the others
	deletes.SetLimit(maxLoads)
	for _, key := range keys {
		deletes.Go(func() error {
			err := b.Delete(ctx, key)
			switch {
			case err == nil:
				deleted.Add(1)
			case errors.Is(err, record.ErrConnectionNotFound), errors.Is(err, record.ErrConnectorNotFound):
				return nil // a tombstone
			}
			return err
		})
	}
	err = deletes.Wait()
	span.SetAttributes(attribute.Int64("token_broker.connections", deleted.Load()))
	return err
}
