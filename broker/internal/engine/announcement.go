package engine

import (
	"context"
	"sync"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/internal/breaker"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// reannounceAfter is how long after it was told of a pause is old news.
const reannounceAfter = 24 * time.Hour

// announcements knows the connectors whose pause this process has found to be told of. What
// counts is in the store, in a record of the broker's own for each connector: replicas
// find out one by one that a client is wrong, and again after each restart.
type announcements struct {
	mu    sync.Mutex // guards known
	known map[record.Key]bool
}

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

// announce reports whether it is this process that tells of the pause of a connector.
// While the store cannot say, it is: better twice than never.
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

// endAnnouncement is called when the token endpoint has taken a connector's client: if it
// is wrong another time, that is news. Nothing waits for it.
func (e *Engine) endAnnouncement(cause context.Context, conn *record.Connector, seen *record.Record) {
	key := announcementKey(conn, seen)
	if !e.refusals.announcements.set(key, false) {
		return
	}
	e.lifecycle.begin(func() {
		ctx, span := e.tracing.startRoot(context.Background(), cause, "token_broker.resume")
		ctx, cancel := context.WithTimeout(ctx, openTimeout)
		defer cancel()
		_, err := e.updateAnnouncement(ctx, key, func(stored announcement) (announcement, bool) {
			return announcement{}, stored != announcement{}
		})
		if err != nil {
			e.refusals.announcements.set(key, true) // the next one that succeeds tries again
		}
		EndSpan(span, err)
	})
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
	if endpoint := breaker.EndpointOf(c, rec); endpoint != "" {
		key.Consumer += " " + string(secret.New(endpoint).Hash())
	}
	return key
}

// updateAnnouncement replaces an announcement if change says so, and reports whether it
// did.
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
