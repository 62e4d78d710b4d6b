package breaker

import (
	"strconv"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// Every caller that may import can create connections whose settings a token endpoint
// refuses.
func TestBreakersOfConnectionsDoNotPileUp(t *testing.T) {
	t.Parallel()
	conn := &record.Connector{Definition: connector.Definition{
		ID: connector.ID{UnifiedAPI: "crm", ServiceID: "acme"}, AuthType: connector.OAuth2, GrantType: connector.Password,
	}}
	var s Set
	now := time.Unix(0, 0)
	common := &record.Record{Key: record.Key{Consumer: "any"}}
	if begun, shared := s.Trip(conn, common, "invalid_client", now.Add(ProbeInterval)); !begun || !shared {
		t.Errorf("got begun %t, shared %t; want both", begun, shared)
	}
	for i := range 10 * maxBreakers {
		now = now.Add(time.Second)
		rec := &record.Record{Key: record.Key{Consumer: strconv.Itoa(i)}}
		if begun, shared := s.Trip(conn, rec, "http_404", now.Add(ProbeInterval)); !begun || shared {
			t.Fatalf("%d: got begun %t, shared %t; want begun only", i, begun, shared)
		}
		if s.OpenUntil(conn, rec, now).IsZero() {
			t.Fatalf("%d: no breaker is open", i)
		}
	}
	if len(s.open) > maxBreakers {
		t.Errorf("got %d open breakers, want at most %d", len(s.open), maxBreakers)
	}
	if s.open[subject{connector: conn.ID}] == nil {
		t.Error("the breaker of the connector is gone")
	}
}
