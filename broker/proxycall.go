package broker

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/engine"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// A ProxyCall is a request to downstream whose URL and connection its caller names. The
// connection may be named in part, see [Broker.AdmitCall].
type ProxyCall struct {
	Application string
	Consumer    string
	UnifiedAPI  string // may be empty
	ServiceID   string // may be empty
	Target      *connector.Target
}

// resolve finds the connection of a call, its connector, and the URL.
func (b *Broker) resolve(ctx context.Context, cfg *record.Config, call ProxyCall) (*engine.Refresher, *record.Connector, *url.URL, error) {
	key := record.Key{
		Application: call.Application, Consumer: call.Consumer,
		Connector: connector.ID{UnifiedAPI: call.UnifiedAPI, ServiceID: call.ServiceID},
	}
	if call.UnifiedAPI == "" || call.ServiceID == "" {
		var err error
		if key.Connector, err = b.choose(ctx, cfg, call); err != nil {
			return nil, nil, nil, err
		}
	}
	r, conn, err := b.engine.Find(cfg, key)
	if err != nil {
		return nil, nil, nil, err
	}
	var settings map[string]any
	if call.Target.HasSettings() {
		snap, err := r.Latest(ctx)
		if err != nil {
			r.DropIfUnknown()
			return nil, nil, nil, err
		}
		settings = snap.Record.Settings
	}
	u, err := renderTarget(conn, call.Target, settings)
	if err != nil {
		r.DropIfUnknown()
		return nil, nil, nil, err
	}
	return r, conn, u, nil
}

func renderTarget(conn *record.Connector, target *connector.Target, settings map[string]any) (*url.URL, error) {
	u, err := conn.RenderTarget(target, settings)
	if err == nil {
		return u, nil
	}
	field := record.DownstreamURLField
	if setting, ok := errors.AsType[*connector.SettingError](err); ok {
		return nil, &record.InputError{
			Kind: record.InputInvalid, Field: field, Fault: fmt.Sprintf("cannot be filled in: setting %s %s", setting.Setting, setting.Fault),
			Fix: "correct the URL, in which a literal brace is written %7B or %7D, or the connection's settings",
		}
	}
	return nil, &record.InputError{Kind: record.InputHeader, Field: field, Fault: err.Error(), Fix: "send an https URL"}
}

// choose finds the connector of a call that names it in part or not at all.
func (b *Broker) choose(ctx context.Context, cfg *record.Config, call ProxyCall) (connector.ID, error) {
	if err := record.ValidateName(record.ConsumerField, call.Consumer); err != nil {
		return connector.ID{}, err
	}
	named := b.named(cfg, call)
	if len(named) == 0 {
		return connector.ID{}, fmt.Errorf("%w: no configured connector matches the headers", record.ErrConnectorNotFound)
	}
	ids := named
	if call.ServiceID == "" {
		ids = slices.DeleteFunc(slices.Clone(named), func(id connector.ID) bool {
			return !cfg.MayAllow(cfg.Connectors[id], call.Target)
		})
	}
	switch len(ids) {
	case 0:
		return connector.ID{}, fmt.Errorf("%w: no configured connector does", record.ErrHostNotAllowed)
	case 1:
		return ids[0], nil
	}
	ids, err := b.connectedAmong(ctx, cfg, call, ids)
	switch {
	case err != nil:
		return connector.ID{}, err
	case len(ids) == 0:
		return connector.ID{}, fmt.Errorf("%w: none of the consumer's connections fits: import one, or correct %s",
			record.ErrConnectionNotFound, record.ServiceField)
	case len(ids) > 1:
		return connector.ID{}, ambiguous(call, ids)
	}
	return ids[0], nil
}

// named returns the configured connectors that match the call's headers, in order.
func (b *Broker) named(cfg *record.Config, call ProxyCall) []connector.ID {
	var ids []connector.ID
	for _, id := range b.connectorsByService(cfg)[call.ServiceID] {
		if call.UnifiedAPI == "" || id.UnifiedAPI == call.UnifiedAPI {
			ids = append(ids, id)
		}
	}
	return ids
}

// A serviceIndex caches the connectors of a configuration by service id, in order. The
// empty service id stands for all connectors.
type serviceIndex struct {
	cfg *record.Config
	ids map[string][]connector.ID
}

func (b *Broker) connectorsByService(cfg *record.Config) map[string][]connector.ID {
	if index := b.byService.Load(); index != nil && index.cfg == cfg {
		return index.ids
	}
	index := &serviceIndex{cfg: cfg, ids: make(map[string][]connector.ID)}
	for id := range cfg.Connectors {
		index.ids[id.ServiceID] = append(index.ids[id.ServiceID], id)
		index.ids[""] = append(index.ids[""], id)
	}
	for _, ids := range index.ids {
		slices.SortFunc(ids, connector.ID.Compare)
	}
	b.byService.Store(index)
	return index.ids
}

// connectedAmong returns the connectors among ids to which the consumer has a connection.
// If the call names no service, the connection must also be allowed to send its credential
// to the target.
func (b *Broker) connectedAmong(ctx context.Context, cfg *record.Config, call ProxyCall, ids []connector.ID) ([]connector.ID, error) {
	keys, err := b.keys(ctx, call.Application, call.Consumer)
	if err != nil {
		return nil, err
	}
	keys = slices.DeleteFunc(keys, func(key record.Key) bool { return !slices.Contains(ids, key.Connector) })
	fits := make([]bool, len(keys))
	loads, ctx := errgroup.WithContext(ctx)
	loads.SetLimit(maxLoads)
	for i, key := range keys {
		loads.Go(func() error {
			snap, err := b.engine.Refresher(key).Latest(ctx)
			if errors.Is(err, record.ErrConnectionNotFound) {
				return nil // a tombstone, or deleted a moment ago
			}
			if err != nil {
				return err
			}
			fits[i] = call.ServiceID != "" || maySendTo(cfg, cfg.Connectors[key.Connector], call.Target, snap)
			return nil
		})
	}
	if err := loads.Wait(); err != nil {
		return nil, err
	}
	var found []connector.ID
	for i, key := range keys {
		if fits[i] {
			found = append(found, key.Connector)
		}
	}
	return found, nil
}

// maySendTo reports whether a connection may send its credential to the target.
func maySendTo(cfg *record.Config, conn *record.Connector, target *connector.Target, snap *engine.Snapshot) bool {
	u, err := conn.RenderTarget(target, snap.Record.Settings)
	return err == nil && engine.AllowsHost(cfg, conn, u, snap.Record.Settings) == nil
}

func ambiguous(call ProxyCall, ids []connector.ID) error {
	names := make([]string, len(ids))
	for i, id := range ids {
		names[i] = id.String()
	}
	field, fix := record.ServiceField, "send the service, and the unified API in "+record.UnifiedAPIField+", of one of them"
	if call.ServiceID != "" {
		field, fix = record.UnifiedAPIField, "send the unified API of one of them"
	}
	return &record.InputError{
		Kind: record.InputHeader, Field: field,
		Fault: "is needed, since several of the consumer's connections fit: " + strings.Join(names, ", "), Fix: fix,
	}
}

// AdmitCall is [Broker.Admit] for the connection of a call. It also returns the URL to send
// the request to. If the call has both UnifiedAPI and ServiceID, they name the connector.
// Otherwise the consumer must have exactly one connection that fits; without ServiceID, it
// must be allowed to send its credential to the target's host. AdmitCall does not check
// that the connection exists and is enabled; [Admission.Authorize] does.
//
// Errors: those of [Broker.Admit] (with an [*record.InputError] that lists the connections if
// several fit), [record.ErrConnectionNotFound], [record.ErrHostNotAllowed], [record.ErrStoreUnavailable], a
// [*record.TokenError] if the store was rolled back, ctx's.
func (b *Broker) AdmitCall(ctx context.Context, call ProxyCall) (*Admission, *url.URL, error) {
	cfg := b.Config()
	r, conn, u, err := b.resolve(ctx, cfg, call)
	if err != nil {
		return nil, nil, err
	}
	admission, err := b.admit(ctx, r, cfg, conn)
	return admission, u, err
}
