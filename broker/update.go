package broker

import (
	"context"
	"errors"
	"reflect"

	"go.opentelemetry.io/otel/trace"
)

// errUnchanged ends an update that would save what is stored.
var errUnchanged = errors.New("the record is as it should be")

// Update changes settings, metadata or the switch of a connection. Settings and metadata
// are merge patches, as in an import; a masked value that comes back means "as it was". A
// connection that is switched off gets no credential any more: in this process from the
// next call on, in others within [Config.CacheTTL].
//
// Errors: [*InputError], [ErrConnectorNotFound], [ErrConnectionNotFound],
// [ErrRecordTooLarge], [ErrStoreUnavailable]. After the last it may have been stored.
func (b *Broker) Update(ctx context.Context, key Key, up *Update) (_ *Connection, err error) {
	ctx, span := b.tracing.start(ctx, "token_broker.update", trace.WithAttributes(connectorAttribute(key)))
	defer func() { endSpan(span, err) }()
	conn, err := b.Config().connector(key)
	if err != nil {
		return nil, err
	}
	state := b.refresher(key)
	defer state.leave()
	var replaced bool
	rec, rev, err := b.update(ctx, key, func(rec *Record) (*Record, error) {
		if rec == nil || rec.IsTombstone() {
			return nil, connectionNotFound(key)
		}
		before := rec.Generation
		if err := rec.apply(conn, up); err != nil {
			return nil, err
		}
		if replaced = rec.Generation != before; replaced {
			rec.Generation = max(rec.Generation, state.seen()+1)
		}
		rec.UpdatedAt = b.clock.Now()
		return rec, nil
	})
	if errors.Is(err, errUnchanged) {
		return b.show(ctx, conn, key)
	}
	if err != nil {
		return nil, err
	}
	state.install(rec, rev, b.clock.Now())
	if replaced {
		b.destroyEarlier(ctx, key, rev)
	}
	view := rec.view(&conn.Definition, b.clock.Now())
	return &view, nil
}

// apply changes the record, which is the caller's own copy.
func (r *Record) apply(conn *Connector, up *Update) error {
	before := r.Clone()
	if up.Enabled != nil {
		r.Enabled = *up.Enabled
	}
	bound, patch := r.binding(conn), conn.unmask(up.Settings)
	r.Settings = mergePatch(r.Settings, patch)
	r.Metadata = mergePatch(r.Metadata, up.Metadata)
	if r.Enabled == before.Enabled && sameObject(r.Settings, before.Settings) && sameObject(r.Metadata, before.Metadata) {
		return errUnchanged
	}
	if err := r.checkSize(); err != nil {
		return err
	}
	if sameObject(r.Settings, before.Settings) {
		return nil
	}
	if err := conn.checkFit(r.Settings); err != nil {
		return err
	}
	identity, err := bound.check(conn, r, patch, nil)
	if err != nil {
		return err
	}
	if identity || conn.injectsOther(before.Settings, r.Settings) {
		r.Generation++
	}
	return nil
}

// sameObject reports whether two JSON objects are the same; none is an empty one.
func sameObject(a, b map[string]any) bool {
	return len(a) == 0 && len(b) == 0 || reflect.DeepEqual(a, b)
}

// injectsOther reports whether a change of settings is one of the credentials that calls
// leave with.
func (c *Connector) injectsOther(before, after map[string]any) bool {
	const token = "any" // which stays as it is
	was, wasErr := c.Injections(before, token)
	is, isErr := c.Injections(after, token)
	return (wasErr == nil) != (isErr == nil) || !reflect.DeepEqual(was, is)
}
