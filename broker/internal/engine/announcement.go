package engine

import (
	"context"
	"sync"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/internal/breaker"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/tracing"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// reannounceAfter is how long after an announcement the same pause is announced again.
const reannounceAfter = 24 * time.Hour

// announcements caches which pauses were announced to operators, so that the end of a pause
// costs no read of the store while nothing is paused. The store decides, in an internal
// record for each connector: each replica learns separately that a client is refused, and
// learns it again after a restart.
type announcements struct {
	mu    sync.Mutex
	known map[record.Key]bool // guarded by mu; by announcementKey
}

// set replaces what is known about key, and returns what was known before.
func (a *announcements) set(key record.Key, known bool) (before bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	before = a.known[key]
	if !known {
		delete(a.known, key)
		return before
	}
	if a.known == nil {
		a.known = make(map[record.Key]bool)
	}
	a.known[key] = true
	return before
}

// announce reports whether this process must announce the pause of a connector. It must if
// the store is unavailable: an announcement may be repeated but not lost.
func (e *Engine) announce(ctx context.Context, conn *record.Connector, seen *record.Record, now time.Time) bool {
	key := announcementKey(conn, seen)
	e.refusals.announcements.set(key, true)
	client := breaker.Fingerprint(conn)
	news, err := e.updateAnnouncement(ctx, key, func(stored announcement) (announcement, bool) {
		known := stored.client == client && now.Sub(stored.at).Abs() < reannounceAfter
		return announcement{client, now}, !known
	})
	return news || err != nil
}

// endAnnouncement is called when the token endpoint has accepted a connector's client. The
// next refusal of the client is then announced again. It works in the background.
func (e *Engine) endAnnouncement(cause context.Context, conn *record.Connector, seen *record.Record) {
	key := announcementKey(conn, seen)
	if !e.refusals.announcements.set(key, false) {
		return
	}
	e.lifecycle.begin(func() {
		ctx, span := e.tracing.StartRoot(context.Background(), cause, "token_broker.resume")
		ctx, cancel := context.WithTimeout(ctx, openTimeout)
		defer cancel()
		_, err := e.updateAnnouncement(ctx, key, func(stored announcement) (announcement, bool) {
			return announcement{}, stored != announcement{}
		})
		if err != nil {
			e.refusals.announcements.set(key, true) // the next successful refresh tries again
		}
		tracing.EndSpan(span, err)
	})
}

// An announcement records that operators were told of a refused client. The zero value
// means that they were not.
type announcement struct {
	client secret.Hash // fingerprint of the refused client
	at     time.Time   // of the announcement
}

// announcementKey returns the key of the record that holds the announcement: one for each
// connector or, if the token endpoint depends on settings, one for each endpoint.
func announcementKey(c *record.Connector, rec *record.Record) record.Key {
	key := record.Key{Application: record.OwnApplication, Consumer: "pause", Connector: c.ID}
	if endpoint := breaker.EndpointOf(c, rec); endpoint != "" {
		key.Consumer += " " + string(secret.New(endpoint).Hash())
	}
	return key
}

// updateAnnouncement replaces the stored announcement if change asks for it, and reports
// whether it did.
func (e *Engine) updateAnnouncement(ctx context.Context, key record.Key, change func(announcement) (announcement, bool)) (bool, error) {
	rec, _, err := e.updateIf(ctx, key, func(rec *record.Record) *record.Record {
		now := e.clock.Now()
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
