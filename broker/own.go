package broker

import (
	"context"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// ownApplication is the application of the broker's own records. It has a control
// character, so that no caller can name it. Stores keep records and nothing else: what
// replicas share besides connections is stored in their form, and only this file knows
// how.
const ownApplication = "\x01broker"

// sweepKey is where the lease of the sweep is.
var sweepKey = record.Key{Application: ownApplication, Consumer: "sweep", Connector: connector.ID{UnifiedAPI: "broker", ServiceID: "sweep"}}

// updateSweepLease replaces the lease of the sweep if change says so, and reports whether
// it did. change gets nil if there is none.
func (b *Broker) updateSweepLease(ctx context.Context, change func(*record.Lease) (*record.Lease, bool)) (bool, error) {
	rec, _, err := b.updateIf(ctx, sweepKey, func(rec *record.Record) *record.Record {
		if rec == nil {
			rec = &record.Record{Key: sweepKey, CreatedAt: b.clock.Now()}
		}
		next, changed := change(rec.Lease)
		if !changed {
			return nil
		}
		rec.Lease = next
		return rec
	})
	return rec != nil, err
}

// An announcement says that operators have been told of a refused client. The zero
// announcement says that they have not.
type announcement struct {
	client secret.Hash // fingerprint of the client as it was
	at     time.Time
}

// announcementKey is where the announcement about a connector's client is stored: one for
// the connector or, if settings decide the token endpoint, for each endpoint.
func announcementKey(c *record.Connector, rec *record.Record) record.Key {
	key := record.Key{Application: ownApplication, Consumer: "pause", Connector: c.ID}
	if endpoint := endpointOf(c, rec); endpoint != "" {
		key.Consumer += " " + string(secret.New(endpoint).Hash())
	}
	return key
}

// updateAnnouncement replaces an announcement if change says so, and reports whether it
// did.
func (b *Broker) updateAnnouncement(ctx context.Context, key record.Key, change func(announcement) (announcement, bool)) (bool, error) {
	rec, _, err := b.updateIf(ctx, key, func(rec *record.Record) *record.Record {
		now := b.clock.Now()
		if rec == nil {
			rec = &record.Record{Key: key, CreatedAt: now}
		}
		var stored announcement
		if rec.Cycle.Phase == record.PhaseFailed {
			stored = announcement{client: rec.Cycle.Parked, at: rec.Cycle.FailedAt}
		}
		next, changed := change(stored)
		if !changed {
			return nil
		}
		rec.UpdatedAt, rec.Cycle = now, record.Cycle{}
		if next != (announcement{}) {
			rec.Cycle = record.Cycle{Phase: record.PhaseFailed, Class: record.ClassConfiguration, FailedAt: next.at, Parked: next.client}
		}
		return rec
	})
	return rec != nil, err
}
