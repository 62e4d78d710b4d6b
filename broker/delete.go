package broker

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// Delete removes a connection. Its record becomes a tombstone without secrets, so that a
// writer that is unaware of the deletion cannot bring the connection back, and earlier
// revisions are destroyed in the store. If the connector has a revocation endpoint, the
// grant is revoked there in the background (RFC 7009); the outcome is only logged.
// Importing the same tokens again therefore fails, unless the import comes before the
// revocation, which is then abandoned. Errors: [*record.InputError],
// [record.ErrConnectorNotFound], [record.ErrConnectionNotFound], [record.ErrStoreUnavailable].
func (b *Broker) Delete(ctx context.Context, key record.Key) (err error) {
	ctx, span := b.tracing.start(ctx, "token_broker.delete", trace.WithAttributes(connectorAttribute(key)))
	defer func() { endSpan(span, err) }()
	if err := key.Validate(); err != nil {
		return err
	}
	cfg := b.Config()
	now := b.clock.Now()
	r := b.refresher(key)
	defer r.dropIfUnknown()
	var last *record.Record
	tombstone, rev, err := b.updateWith(ctx, key, b.saveTombstone, func(rec *record.Record) (*record.Record, error) {
		if rec == nil || rec.IsTombstone() {
			// An unconfigured connector may have connections from when it was configured.
			if _, err := cfg.connector(key); err != nil {
				return nil, err
			}
			return nil, record.ConnectionNotFound(key)
		}
		last = rec
		return &record.Record{
			Key: key, CreatedAt: rec.CreatedAt, UpdatedAt: now, Deleted: now,
			Generation: max(rec.Generation, r.highestSeen()) + 1,
		}, nil
	})
	if err != nil {
		return err
	}
	r.install(tombstone, rev, now)
	b.destroyEarlier(ctx, key, rev)
	if c := last.Credentials; c != nil {
		b.revoke(ctx, newRevocation(cfg, cfg.Connectors[key.Connector], key, last.Settings, c.AccessToken, c.RefreshToken))
	}
	return nil
}

// saveTombstone is save for a deletion, which a pending answer for the same connection
// does not prevent.
func (b *Broker) saveTombstone(ctx context.Context, rec *record.Record, rev record.Revision) (record.Revision, error) {
	if err := b.replay(ctx); err != nil {
		return 0, err
	}
	return b.saveNow(ctx, rec, rev)
}

// DeleteConsumer removes all connections of a consumer as [Broker.Delete] does, including
// those whose connector is no longer configured. After an error some may have been
// removed; the call can be repeated. Errors: [*record.InputError], [ErrConsumerNotFound],
// [record.ErrStoreUnavailable], ctx's.
func (b *Broker) DeleteConsumer(ctx context.Context, application, consumer string) (err error) {
	ctx, span := b.tracing.start(ctx, "token_broker.delete_consumer")
	defer func() { endSpan(span, err) }()
	if err := record.CheckName(record.InputSyntax, "consumer_id", consumer); err != nil {
		return err
	}
	keys, err := b.keys(ctx, application, consumer)
	if err != nil {
		return err
	}
	if len(keys) == 0 {
		return fmt.Errorf("%w: it has no connections", ErrConsumerNotFound)
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

// purgeLease is how long an import waits for a tombstone that is being purged.
const purgeLease = 10 * time.Second

// purge removes a tombstone for good. Stores cannot delete by compare-and-set, and an
// import may come at any time. So the tombstone gets a lease first, which imports respect,
// and the deletion takes at most half of it.
func (b *Broker) purge(ctx context.Context, key record.Key) error {
	lease := &record.Lease{ID: uuid.NewString(), Duration: purgeLease}
	begun := b.clock.Now()
	rec, _, err := b.updateIf(ctx, key, func(rec *record.Record) *record.Record {
		if rec == nil || !rec.IsPurgeable(b.clock.Now()) {
			return nil
		}
		rec.Lease = lease
		return rec
	})
	if err != nil || rec == nil {
		return err
	}
	left := purgeLease/2 - b.clock.Now().Sub(begun)
	if left <= 0 {
		return nil // the next sweep tries again
	}
	ctx, cancel := context.WithTimeout(ctx, left)
	defer cancel()
	return b.deleteNow(ctx, key)
}

func (b *Broker) deleteNow(ctx context.Context, key record.Key) (err error) {
	ctx, span := b.startStoreSpan(ctx, "delete", key)
	defer func() { endSpan(span, err) }()
	s, err := b.store(ctx)
	if err != nil {
		return err
	}
	return s.Delete(ctx, key)
}

// errPurging ends an update because the record is a tombstone that is being purged.
var errPurging = errors.New("a tombstone is being purged")

// updateUnpurged is update for a change that may bring a deleted connection back: it waits
// while the tombstone is being purged. If the process that purges it has died, the wait
// ends with the lease.
func (b *Broker) updateUnpurged(ctx context.Context, key record.Key, change func(*record.Record) (*record.Record, error)) (*record.Record, record.Revision, error) {
	var observed leaseObserver
	for {
		rec, rev, err := b.update(ctx, key, func(rec *record.Record) (*record.Record, error) {
			if rec != nil && rec.IsTombstone() && rec.Lease != nil && !observed.overdue(rec.Lease, b.clock.Now()) {
				return nil, errPurging
			}
			return change(rec)
		})
		if !errors.Is(err, errPurging) {
			return rec, rev, err
		}
		if err := b.clock.Sleep(ctx, leasePoll); err != nil {
			return nil, 0, fmt.Errorf("%w: %w", record.ErrStoreUnavailable, err)
		}
	}
}
