package broker

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel/trace"
)

// Delete removes a connection. Its record becomes a tombstone without anything
// secret in it, so that a writer which has not heard of it cannot bring it back, and
// what the store keeps of earlier revisions is destroyed. Errors: [*InputError],
// [ErrConnectionNotFound], [ErrStoreUnavailable].
func (b *Broker) Delete(ctx context.Context, key Key) (err error) {
	ctx, span := b.tracing.start(ctx, "token_broker.delete", trace.WithAttributes(connectorAttribute(key)))
	defer func() { endSpan(span, err) }()
	if err := key.Validate(); err != nil {
		return err
	}
	now := b.clock.Now()
	rec, rev, err := b.update(ctx, key, func(rec *Record) (*Record, error) {
		if rec == nil || rec.IsTombstone() {
			return nil, connectionNotFound(key)
		}
		return &Record{Key: key, CreatedAt: rec.CreatedAt, UpdatedAt: now, Deleted: now, Generation: rec.Generation + 1}, nil
	})
	if err != nil {
		return err
	}
	b.refresher(key).install(rec, rev, now)
	b.destroyEarlier(ctx, key, rev)
	return nil
}

// purge removes a tombstone for good.
func (b *Broker) purge(ctx context.Context, key Key) (err error) {
	ctx, span := b.startStoreSpan(ctx, "delete", key)
	defer func() { endSpan(span, err) }()
	s, err := b.store(ctx)
	if err != nil {
		return err
	}
	// Delete is no compare-and-set: somebody may have imported anew a moment ago.
	if rec, _, err := s.Load(ctx, key); err != nil || !rec.IsTombstone() {
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		return err
	}
	return s.Delete(ctx, key)
}
