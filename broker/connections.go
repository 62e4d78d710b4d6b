package broker

import (
	"context"
	"errors"
	"slices"

	"go.opentelemetry.io/otel/attribute"
	"golang.org/x/sync/errgroup"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/tracing"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// look reads a connection and returns it with its connector.
func (b *Broker) look(ctx context.Context, key record.Key) (*record.Connector, *record.Connection, error) {
	conn, err := b.Config().ConnectorOf(key)
	if err != nil {
		return nil, nil, err
	}
	view, err := b.show(ctx, conn, key)
	return conn, view, err
}

// show reads a connection. If its stored credentials are older than those that this
// process has seen, it is shown as invalid until it is imported again.
func (b *Broker) show(ctx context.Context, conn *record.Connector, key record.Key) (*record.Connection, error) {
	snap, err := b.engine.Refresher(key).Read(ctx)
	if err == nil {
		view := snap.Record.View(&conn.Definition, b.engine.Now())
		return &view, nil
	}
	if failed, ok := errors.AsType[*record.TokenError](err); !ok || failed.Code != record.CodeStaleStore {
		return nil, err
	}
	rec, _, err := b.engine.Load(ctx, key)
	switch {
	case errors.Is(err, record.ErrNotFound), err == nil && rec.IsTombstone():
		return nil, record.ConnectionNotFound(key)
	case err != nil:
		return nil, err
	}
	view := rec.View(&conn.Definition, b.engine.Now())
	view.State, view.Health = record.StateInvalid, record.HealthNeedsAuth
	return &view, nil
}

// Connection returns the public view of a connection, without credentials. Errors:
// [record.ErrConnectorNotFound], [record.ErrConnectionNotFound], [record.ErrStoreUnavailable], [*record.InputError].
func (b *Broker) Connection(ctx context.Context, key record.Key) (*record.Connection, error) {
	_, view, err := b.look(ctx, key)
	return view, err
}

// maxLoads is how many records of one consumer are read or changed at the same time.
const maxLoads = 16

// A Filter selects connections of a list. The zero Filter selects all.
type Filter struct {
	UnifiedAPI string // of the connectors; empty: any

	// Configured selects connections that exist (true), or connectors that the consumer is
	// not connected to, in [record.StateAvailable] (false). nil: both.
	Configured *bool
}

func (f Filter) selects(id connector.ID) bool {
	return f.UnifiedAPI == "" || f.UnifiedAPI == id.UnifiedAPI
}

// Connections returns the connections of a consumer and, in [record.StateAvailable], the
// connectors that the consumer could be connected to, ordered by connector id. Connections
// whose connector is not configured are left out. The store does one list, and one load for
// each selected connection; other consumers do not matter. Errors: [*record.InputError],
// [record.ErrStoreUnavailable], ctx's.
func (b *Broker) Connections(ctx context.Context, application, consumer string, filter Filter) (_ []*record.Connection, err error) {
	ctx, span := b.engine.StartSpan(ctx, "token_broker.list")
	defer func() { tracing.EndSpan(span, err) }()
	keys, err := b.keys(ctx, application, consumer)
	if err != nil {
		return nil, err
	}
	cfg := b.Config()
	keys = slices.DeleteFunc(keys, func(key record.Key) bool {
		return cfg.Connectors[key.Connector] == nil || !filter.selects(key.Connector)
	})
	found, err := b.loadAll(ctx, cfg, keys)
	if err != nil {
		return nil, err
	}
	var list []*record.Connection
	if filter.Configured == nil || *filter.Configured {
		list = append(list, found...)
	}
	if filter.Configured == nil || !*filter.Configured {
		list = append(list, available(cfg, application, consumer, filter, found)...)
	}
	slices.SortFunc(list, func(a, b *record.Connection) int { return a.Key.Connector.Compare(b.Key.Connector) })
	span.SetAttributes(attribute.Int("token_broker.connections", len(list)))
	return list, nil
}

// loadAll returns the connections that exist among keys.
func (b *Broker) loadAll(ctx context.Context, cfg *record.Config, keys []record.Key) ([]*record.Connection, error) {
	found := make([]*record.Connection, len(keys))
	loads, ctx := errgroup.WithContext(ctx)
	loads.SetLimit(maxLoads)
	for i, key := range keys {
		loads.Go(func() (err error) {
			found[i], err = b.show(ctx, cfg.Connectors[key.Connector], key)
			if errors.Is(err, record.ErrConnectionNotFound) {
				return nil // a tombstone, or deleted a moment ago
			}
			return err
		})
	}
	if err := loads.Wait(); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(found, func(c *record.Connection) bool { return c == nil }), nil
}

// available returns the connectors that a consumer with the connections found is not
// connected to.
func available(c *record.Config, application, consumer string, filter Filter, found []*record.Connection) []*record.Connection {
	connected := make(map[connector.ID]bool, len(found))
	for _, conn := range found {
		connected[conn.Key.Connector] = true
	}
	var list []*record.Connection
	for id, conn := range c.Connectors {
		if filter.selects(id) && !connected[id] {
			list = append(list, &record.Connection{
				Key:       record.Key{Application: application, Consumer: consumer, Connector: id},
				Connector: conn.Definition, State: record.StateAvailable,
			})
		}
	}
	return list
}

// keys returns the keys of a consumer's records, tombstones included.
func (b *Broker) keys(ctx context.Context, application, consumer string) ([]record.Key, error) {
	if err := record.ValidateName(record.ApplicationField, application); err != nil {
		return nil, err
	}
	if err := record.ValidateName(record.ConsumerField, consumer); err != nil {
		return nil, err
	}
	s, err := b.engine.Store(ctx)
	if err != nil {
		return nil, err
	}
	var keys []record.Key
	for key, err := range s.List(ctx, application, consumer) {
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	return keys, nil
}
