package breaker

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// idle is a [Runner] that does nothing.
type idle struct{}

func (idle) Run(func(context.Context)) bool { return true }
func (idle) StartRefresh(record.Key)        {}
func (idle) QueueRefresh(record.Key)        {}

// still is a [Clock] that only moves by hand.
type still struct{ now *time.Time }

func (s still) Now() time.Time                           { return *s.now }
func (s still) Elapsed() time.Duration                   { return s.now.Sub(time.Unix(0, 0)) }
func (still) Sleep(context.Context, time.Duration) error { return context.Canceled }

// Every caller that may import can create connections whose own client a token endpoint refuses.
func TestBreakersOfConnectionsDoNotPileUp(t *testing.T) {
	t.Parallel()
	conn := &record.Connector{Definition: connector.Definition{
		ID: connector.ID{UnifiedAPI: "crm", ServiceID: "acme"}, AuthType: connector.OAuth2, GrantType: connector.ClientCredentials,
		Settings: []connector.Setting{{Name: "client_id"}, {Name: "client_secret", Sensitive: true}},
	}}
	refusal := record.Answer{Class: record.ClassConfiguration, Code: "invalid_client"}
	now := time.Unix(0, 0)
	s := NewSet(still{&now}, idle{})
	common := &record.Record{Key: record.Key{Consumer: "any"}}
	if begun, shared := s.ClientRefused(conn, common, refusal); !begun || !shared {
		t.Errorf("got begun %t, shared %t; want both", begun, shared)
	}
	for i := range 10 * maxBreakers {
		now = now.Add(time.Second)
		rec := &record.Record{
			Key: record.Key{Consumer: strconv.Itoa(i)}, Settings: map[string]any{"client_id": strconv.Itoa(i), "client_secret": "x"},
		}
		if begun, shared := s.ClientRefused(conn, rec, refusal); !begun || shared {
			t.Fatalf("%d: got begun %t, shared %t; want begun only", i, begun, shared)
		}
		if s.Check(conn, rec) == nil {
			t.Fatalf("%d: no breaker is open", i)
		}
		s.breakers[subjectOf(conn, rec)].waiting = queue{} // the connection was deleted
	}
	if len(s.breakers) > maxBreakers {
		t.Errorf("got %d open breakers, want at most %d", len(s.breakers), maxBreakers)
	}
	if s.breakers[subject{connector: conn.ID}] == nil {
		t.Error("the breaker of the connector is gone")
	}
}

// A connection that is held back by a pause learns what the token endpoint said of the client. What it said
// of other connections is not passed on.
func TestHeldBackConnectionLearnsWhy(t *testing.T) {
	t.Parallel()
	conn := &record.Connector{Definition: connector.Definition{ID: connector.ID{UnifiedAPI: "crm", ServiceID: "acme"}, AuthType: connector.OAuth2}}
	now := time.Unix(0, 0)
	held := &record.Record{Key: record.Key{Consumer: "held"}}
	why := func(s *Set) *record.TokenError {
		err, ok := errors.AsType[*record.TokenError](s.Check(conn, held))
		if !ok {
			t.Fatal("the connection is not held back")
		}
		return err
	}
	s := NewSet(still{&now}, idle{})
	s.ClientRefused(conn, &record.Record{}, record.Answer{Code: "invalid_client", Detail: "number=AADSTS7000222"})
	if err := why(s); err.WholeCode() != "connector_paused because of invalid_client" || err.Detail != "number=AADSTS7000222" {
		t.Errorf("got %s, %q", err.WholeCode(), err.Detail)
	}
	s = NewSet(still{&now}, idle{})
	for i := range enoughRefusals {
		s.Refused(conn, &record.Record{Key: record.Key{Consumer: strconv.Itoa(i)}}, record.Answer{Code: "http_404", Detail: "x-request-id=1"})
	}
	if err := why(s); err.WholeCode() != "token_endpoint_in_doubt because of http_404" || err.Detail != "" {
		t.Errorf("got %s, %q", err.WholeCode(), err.Detail)
	}
}
