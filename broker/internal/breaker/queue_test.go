package breaker

import (
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/clock"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

func randomWaiter(i int) *waiter {
	return &waiter{
		key: record.Key{Consumer: strconv.Itoa(i)}, refused: rand.N(2) == 0, proven: rand.N(2) == 0, valid: rand.N(2) == 0,
		urgent: rand.N(10) == 0, expiry: time.Unix(rand.Int64N(50), 0), failedAt: time.Unix(rand.Int64N(50), 0), since: clock.Instant(rand.N(50)),
	}
}

// The queue agrees with a look at every waiter, however they come and go.
func TestQueueFindsTheFirstOfAllWaiters(t *testing.T) {
	t.Parallel()
	var q queue
	for range 5_000 {
		if w := randomWaiter(rand.N(40)); rand.N(3) == 0 {
			q.remove(w.key)
		} else {
			q.put(w)
		}
		var passed record.Key
		if rand.N(2) == 0 && q.len() > 0 {
			passed = q.order.First().key
		}
		var want *waiter
		urgent := 0
		for _, w := range q.byKey {
			if w.urgent {
				urgent++
			}
			if (w.key != passed || q.len() == 1) && (want == nil || w.compare(want) < 0) {
				want = w
			}
		}
		got := q.first(func(w *waiter) bool { return w.key == passed })
		if (got == nil) != (want == nil) || got != nil && got.compare(want) != 0 || got != nil && got.key == passed && q.len() > 1 {
			t.Fatalf("got %+v, want %+v", got, want)
		}
		if q.urgent != urgent || q.len() != len(q.byKey) {
			t.Fatalf("got %d urgent of %d waiters, want %d of %d", q.urgent, q.len(), urgent, len(q.byKey))
		}
	}
	keys := q.keys()
	for i := range keys[1:] {
		if q.byKey[keys[i]].compare(q.byKey[keys[i+1]]) > 0 {
			t.Fatalf("%v is not before %v", keys[i], keys[i+1])
		}
	}
}

// While others wait, what an operator asked for stays urgent, and a waiter keeps its place.
func TestWaiterThatComesAgainKeepsItsPlace(t *testing.T) {
	t.Parallel()
	var q queue
	key := record.Key{Consumer: "a"}
	q.put(&waiter{key: key, urgent: true, since: 1})
	q.put(&waiter{key: key, since: 2})
	if w := q.first(func(*waiter) bool { return true }); !w.urgent || w.since != 1 || q.urgent != 1 || q.len() != 1 {
		t.Errorf("got %+v, %d urgent of %d", w, q.urgent, q.len())
	}
}

// A connector that the configuration no longer has leaves nothing behind, not even the breakers
// of connections with a client of their own.
func TestBreakersOfARemovedConnectorAreForgotten(t *testing.T) {
	t.Parallel()
	acme := &record.Connector{Definition: connector.Definition{
		ID: connector.ID{UnifiedAPI: "crm", ServiceID: "acme"}, AuthType: connector.OAuth2, GrantType: connector.ClientCredentials,
		Settings: []connector.Setting{{Name: "client_id"}, {Name: "client_secret", Sensitive: true}},
	}}
	other := &record.Connector{Definition: connector.Definition{ID: connector.ID{UnifiedAPI: "crm", ServiceID: "other"}, AuthType: connector.OAuth2}}
	now := time.Unix(0, 0)
	s := NewSet(still{&now}, idle{})
	refusal := record.Answer{Class: record.ClassConfiguration, Code: "invalid_client"}
	own := &record.Record{Key: record.Key{Consumer: "own"}, Settings: map[string]any{"client_id": "x", "client_secret": "y"}}
	for _, rec := range []*record.Record{{Key: record.Key{Consumer: "any"}}, own} {
		s.ClientRefused(acme, rec, refusal)
	}
	s.ClientRefused(other, &record.Record{Key: record.Key{Consumer: "any"}}, refusal)
	s.Reconfigured(&record.Config{Connectors: map[connector.ID]*record.Connector{other.ID: other}})
	if len(s.breakers) != 1 || s.breakers[subject{connector: other.ID}] == nil {
		t.Errorf("got the breakers %v, want only that of %s", s.breakers, other.ID)
	}
}

// Each call of a connection that is held back asks which one goes next.
func BenchmarkHoldOfAHundredThousand(b *testing.B) {
	conn := &record.Connector{Definition: connector.Definition{ID: connector.ID{UnifiedAPI: "crm", ServiceID: "acme"}, AuthType: connector.OAuth2}}
	now := time.Unix(0, 0)
	s := NewSet(still{&now}, idle{})
	records := make([]*record.Record, 100_000)
	for i := range records {
		records[i] = &record.Record{Key: record.Key{Consumer: strconv.Itoa(i)}}
	}
	s.ClientRefused(conn, records[0], record.Answer{Code: "invalid_client"})
	for _, rec := range records {
		_ = s.Hold(conn, rec, false)
	}
	b.ResetTimer()
	for i := range b.N {
		_ = s.Hold(conn, records[i%len(records)], false)
	}
}
