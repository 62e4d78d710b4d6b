package broker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

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

// announcementKey is where the announcement of a pause is: of the connector's or, if settings
// decide the token endpoint, of all that share the record's.
func announcementKey(c *record.Connector, rec *record.Record) record.Key {
	key := record.Key{Application: ownApplication, Consumer: "pause", Connector: c.ID}
	if endpoint := endpointOf(c, rec); endpoint != "" {
		key.Consumer += " " + string(secret.New(endpoint).Hash())
	}
	return key
}

// fingerprint identifies the client of a connector, and how it asks for tokens.
func fingerprint(c *record.Connector) secret.Hash {
	return secret.New(fmt.Sprintf("%q", clientSettingsOf(c, breakerScope{connector: c.ID}, nil))).Hash()
}

// announce reports whether it is this process that tells of the pause of a connector.
// While the store cannot say, it is: better twice than never.
func (b *Broker) announce(ctx context.Context, conn *record.Connector, seen *record.Record, now time.Time) bool {
	key := announcementKey(conn, seen)
	b.announced.set(key, true)
	client := fingerprint(conn)
	_, _, err := b.update(ctx, key, func(rec *record.Record) (*record.Record, error) {
		if rec == nil {
			rec = &record.Record{Key: key, CreatedAt: now}
		}
		if c := rec.Cycle; c.Phase == record.PhaseFailed && c.Parked == client && now.Sub(c.FailedAt).Abs() < reannounceAfter {
			return nil, errSuperseded
		}
		rec.UpdatedAt = now
		rec.Cycle = record.Cycle{Phase: record.PhaseFailed, Class: record.ClassConfiguration, FailedAt: now, Parked: client}
		return rec, nil
	})
	return !errors.Is(err, errSuperseded)
}

// endAnnouncement is called when the token endpoint has taken a connector's client: if it
// is wrong another time, that is news. Nothing waits for it.
func (b *Broker) endAnnouncement(cause context.Context, conn *record.Connector, seen *record.Record) {
	key := announcementKey(conn, seen)
	if !b.announced.set(key, false) {
		return
	}
	b.begin(func() {
		ctx, span := b.tracing.startRoot(context.Background(), cause, "token_broker.resume")
		ctx, cancel := context.WithTimeout(ctx, openTimeout)
		defer cancel()
		_, _, err := b.update(ctx, key, func(rec *record.Record) (*record.Record, error) {
			if rec == nil || rec.Cycle.Phase != record.PhaseFailed {
				return nil, errSuperseded
			}
			rec.UpdatedAt, rec.Cycle = b.clock.Now(), record.Cycle{}
			return rec, nil
		})
		if errors.Is(err, errSuperseded) {
			err = nil
		} else if err != nil {
			b.announced.set(key, true) // the next one that succeeds tries again
		}
		endSpan(span, err)
	})
}
