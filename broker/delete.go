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

// Delete removes a connection. Its record becomes a tombstone without anything
// secret in it, so that a writer which has not heard of it cannot bring it back, and
// what the store keeps of earlier revisions is destroyed. Where the connector names a
// revocation endpoint the grant is taken back there (RFC 7009), in the background: what
// comes of that changes nothing. So a deletion is for good: importing the same tokens
// again works only if it comes before they are taken back, which is given up then.
// Errors: [*record.InputError], [record.ErrConnectorNotFound], [record.ErrConnectionNotFound],
// [record.ErrStoreUnavailable].
func (b *Broker) Delete(ctx context.Context, key record.Key) (err error) {
	ctx, span := b.tracing.start(ctx, "token_broker.delete", trace.WithAttributes(connectorAttribute(key)))
	defer func() { endSpan(span, err) }()
	if err := key.Validate(); err != nil {
		return err
	}
	cfg := b.Config()
	now := b.clock.Now()
	state := b.refresher(key)
	defer state.dropIfUnknown()
	var last *record.Record
	tombstone, rev, err := b.updateWith(ctx, key, b.saveTombstone, func(rec *record.Record) (*record.Record, error) {
		if rec == nil || rec.IsTombstone() {
			// A connector without a block can have connections from when it had one.
			if _, err := cfg.connector(key); err != nil {
				return nil, err
			}
			return nil, record.ConnectionNotFound(key)
		}
		last = rec
		return &record.Record{
			Key: key, CreatedAt: rec.CreatedAt, UpdatedAt: now, Deleted: now,
			Generation: max(rec.Generation, state.highestSeen()) + 1,
		}, nil
	})
	if err != nil {
		return err
	}
	state.install(tombstone, rev, now)
	b.destroyEarlier(ctx, key, rev)
	if c := last.Credentials; c != nil {
		b.revoke(ctx, newRevocation(cfg, cfg.Connectors[key.Connector], key, last.Settings, c.AccessToken, c.RefreshToken))
	}
	return nil
}

// saveTombstone is save for a record that takes nothing more: what waits to be saved
// for its connection alone must not keep that from being deleted.
func (b *Broker) saveTombstone(ctx context.Context, rec *record.Record, rev record.Revision) (record.Revision, error) {
	if err := b.replay(ctx); err != nil {
		return 0, err
	}
	return b.saveNow(ctx, rec, rev)
}

// DeleteConsumer removes all connections of a consumer as [Broker.Delete] does, those of
// connectors that the configuration does not have any more too. If it fails some may be
// gone; it can be repeated. Errors: [*record.InputError], [ErrConsumerNotFound],
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
	var deletes errgroup.Group // without a context: one that fails does not stop the others
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

// purgeLease is how long an import waits for a tombstone to go that is about to be
// removed.
const purgeLease = 10 * time.Second

// purge removes a tombstone for good. No store can delete by compare-and-set, and an
// import may come at any time; so a lease is put into the tombstone first, which imports
// respect, and deleting takes no longer than half of that.
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

// errPurging ends an update because the record is a tombstone that somebody removes.
var errPurging = errors.New("a tombstone is being removed")

// updateUnpurged is update for a change that brings a deleted connection back: it waits
// while the tombstone is being removed. Whoever does that may be gone; then the wait ends
// with the lease.
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
