package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
)

// longLifetime is what an expires_in is worth a warning for: a year or more is
// mostly milliseconds sent as seconds.
const longLifetime = 365 * 24 * time.Hour

// An ImportOutcome says what an import did to the credentials.
type ImportOutcome string

// The outcomes of an import.
const (
	ImportStored ImportOutcome = "stored" // the credentials sent are the connection's now
	ImportKept   ImportOutcome = "kept"   // the connection has kept those that it had
)

// Import creates the connection of key or updates it, and queues a background
// refresh if the token needs one; it does not wait for that.
//
// Running an import again never breaks a connection: credentials that are known to
// be older than the stored ones leave those as they are.
//
// Errors: [*InputError], [ErrConnectorNotFound], [ErrStoreUnavailable]. After the
// first two nothing was stored; after the last it may have been.
func (b *Broker) Import(ctx context.Context, key Key, imp *Import) (_ *Connection, outcome ImportOutcome, err error) {
	ctx, span := b.tracing.start(ctx, "token_broker.import", trace.WithAttributes(connectorAttribute(key)))
	defer func() {
		span.SetAttributes(attribute.String("token_broker.import.outcome", string(outcome)))
		endSpan(span, err)
	}()
	cfg := b.Config()
	conn, err := cfg.connector(key)
	if err != nil {
		return nil, "", err
	}
	if imp.ConsumerID != "" && imp.ConsumerID != key.Consumer {
		return nil, "", &InputError{
			Kind: Contradiction, Field: "consumer_id",
			Fault: "is not the consumer of the x-apideck-consumer-id header", Fix: "send the same id, or leave it out",
		}
	}
	now := b.clock.Now()
	state := b.refresher(key)
	defer state.leave()
	var replaced bool
	rec, rev, err := b.updateUnpurged(ctx, key, func(old *Record) (*Record, error) {
		rec := old
		if rec == nil || rec.IsTombstone() {
			rec = newRecord(key, rec, now)
		}
		before := rec.Generation
		outcome, err = rec.importInto(conn, imp, now)
		if replaced = rec.Generation != before; replaced {
			rec.Generation = max(rec.Generation, state.seen()+1)
		}
		return rec, err
	})
	if err != nil {
		return nil, "", err
	}
	b.warnOfLongLifetime(ctx, cfg, key, imp)
	state.install(rec, rev, b.clock.Now())
	if replaced {
		b.destroyEarlier(ctx, key, rev)
	}
	if rec.Cycle.Queued {
		state.start(ctx)
	}
	view := rec.view(&conn.Definition, now)
	return &view, outcome, nil
}

// newRecord returns the record of a connection that does not exist yet. It goes on
// counting where a tombstone stopped.
func newRecord(key Key, tombstone *Record, now time.Time) *Record {
	rec := &Record{Key: key, Enabled: true, CreatedAt: now}
	if tombstone != nil {
		rec.Generation = tombstone.Generation
	}
	return rec
}

// importInto applies imp to the record, which is the caller's own copy.
func (r *Record) importInto(conn *Connector, imp *Import, now time.Time) (ImportOutcome, error) {
	bound, patch := r.binding(conn), conn.unmask(imp.Settings)
	r.Settings = mergePatch(r.Settings, patch)
	r.Metadata = mergePatch(r.Metadata, imp.Metadata)
	r.UpdatedAt = now
	if err := r.checkSize(); err != nil {
		return "", err
	}
	if err := conn.checkFit(r.Settings); err != nil {
		return "", err
	}
	outcome, err := r.importSecrets(conn, imp, now)
	if err != nil {
		return "", err
	}
	if changed, err := bound.check(conn, r, patch, imp.Credentials); err != nil {
		return "", err
	} else if changed && outcome == ImportKept {
		r.Generation++
		outcome = ImportStored
	}
	if conn.AuthType != connector.OAuth2 {
		return outcome, nil
	}
	r.unpark(conn.rotationFor(r.Credentials), now)
	if r.needsFirstRefresh(now) && conn.canRefresh(r.Credentials) {
		r.Cycle.Queued = true
	}
	return outcome, nil
}

// maxObjects bounds what settings and metadata of a connection are together, encoded, in
// bytes: merging could make them grow for ever, and stores have limits of their own.
const maxObjects = 256 << 10

func (r *Record) checkSize() error {
	size := 0
	for _, object := range []map[string]any{r.Settings, r.Metadata} {
		encoded, err := json.Marshal(object)
		if err != nil {
			return &InputError{Kind: BadSyntax, Field: "settings or metadata", Fault: "cannot be encoded", Fix: "send plain JSON"}
		}
		size += len(encoded)
	}
	if size > maxObjects {
		return &InputError{
			Kind: Contradiction, Field: "settings and metadata",
			Fault: fmt.Sprintf("have %d bytes together with what is stored", size),
			Fix:   fmt.Sprintf("keep them below %d, null removes a member", maxObjects),
		}
	}
	return nil
}

// checkFit reports a setting that cannot stand where the connector puts it. One that is
// missing is no fault yet.
func (c *Connector) checkFit(settings map[string]any) error {
	if unfit, ok := errors.AsType[*connector.SettingError](c.CheckSettings(settings)); ok {
		return &InputError{
			Kind: Contradiction, Field: "settings." + unfit.Setting, Fault: unfit.Fault,
			Fix: fmt.Sprintf("send one that fits %s", c.ID),
		}
	}
	return nil
}

func (b *Broker) warnOfLongLifetime(ctx context.Context, cfg *Config, key Key, imp *Import) {
	c := imp.Credentials
	if c == nil {
		return
	}
	var lifetime time.Duration
	switch {
	case !c.ExpiresAt.IsZero():
		lifetime = c.ExpiresAt.Sub(b.clock.Now())
	case c.ExpiresIn != nil:
		lifetime = *c.ExpiresIn
	}
	if lifetime >= longLifetime {
		cfg.logger().LogAttrs(ctx, slog.LevelWarn, "imported token has a lifetime of a year or more; expires_in is in seconds",
			slog.String("connection", key.String()), slog.Duration("lifetime", lifetime))
	}
}
