package broker

import (
	"context"
	"errors"
	"slices"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"golang.org/x/sync/errgroup"
)

// maxLoads bounds how many records of a list are loaded at a time.
const maxLoads = 8

// Connections returns the connections of a consumer, in the order of their ids. Those of
// a connector that the configuration does not have (any more) are left out. What it
// costs depends on that consumer's connections alone. Errors: [*InputError],
// [ErrStoreUnavailable], ctx's.
func (b *Broker) Connections(ctx context.Context, application, consumer string) (_ []*Connection, err error) {
	ctx, span := b.tracing.start(ctx, "token_broker.list")
	defer func() { endSpan(span, err) }()
	keys, err := b.keys(ctx, application, consumer)
	if err != nil {
		return nil, err
	}
	cfg := b.Config()
	keys = slices.DeleteFunc(keys, func(key Key) bool { return cfg.Connectors[key.Connector] == nil })
	found := make([]*Connection, len(keys))
	loads, ctx := errgroup.WithContext(ctx)
	loads.SetLimit(maxLoads)
	for i, key := range keys {
		loads.Go(func() error {
			snap, err := b.refresher(key).read(ctx)
			if errors.Is(err, ErrConnectionNotFound) {
				return nil // a tombstone, or deleted a moment ago
			}
			if err != nil {
				return err
			}
			view := snap.rec.view(&cfg.Connectors[key.Connector].Definition, b.clock.Now())
			found[i] = &view
			return nil
		})
	}
	if err := loads.Wait(); err != nil {
		return nil, err
	}
	found = slices.DeleteFunc(found, func(c *Connection) bool { return c == nil })
	span.SetAttributes(attribute.Int("token_broker.connections", len(found)))
	return found, nil
}

// keys returns the keys of a consumer's records, tombstones included, in order.
func (b *Broker) keys(ctx context.Context, application, consumer string) ([]Key, error) {
	if err := validateName("x-apideck-app-id", application); err != nil {
		return nil, err
	}
	if err := validateName("x-apideck-consumer-id", consumer); err != nil {
		return nil, err
	}
	s, err := b.store(ctx)
	if err != nil {
		return nil, err
	}
	var keys []Key
	for key, err := range s.List(ctx, application, consumer) {
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b Key) int { return strings.Compare(a.Connector.String(), b.Connector.String()) })
	return keys, nil
}
