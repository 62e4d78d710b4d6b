package broker_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// Exact Online accepts a refresh only in the last 30 s of a token.
func TestTokenEndpointThatRefusesEarlyRefreshes(t *testing.T) {
	t.Parallel()
	for name, refusal := range map[string]func() *http.Response{
		"exact online": func() *http.Response {
			return brokertest.Response(400, map[string]any{"error": "access_denied", "error_description": "Rate limit exceeded: access_token not expired"})
		},
		"without a reason": func() *http.Response { return brokertest.Response(400, map[string]any{"error": "access_denied"}) },
		"its own word":     func() *http.Response { return brokertest.Response(400, map[string]any{"message": "Token still good"}) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			virtually(t, func(t *testing.T, h *harness) {
				h.configureConnector(acme, func(c *record.Connector) { c.EarlyErrors = []string{"~still good"} })
				const lifetime = 10 * time.Minute
				c := newCrowd(t, h, 3, lifetime)
				c.refuseBefore(30*time.Second, lifetime, refusal)
				c.call(2 * time.Hour)
				if got := h.events.types(); got != "" {
					t.Errorf("got the events %q, want none", got)
				}
				for _, key := range c.healthy {
					if view, err := h.Connection(t.Context(), key); err != nil || view.Health != record.HealthOK {
						t.Errorf("%s has health %s, %v", key.Consumer, view.Health, err)
					}
				}
				if got := len(h.provider.Requests()); got > 3*12*6 {
					t.Errorf("got %d token requests, want at most 6 for each token", got)
				}
			})
		})
	}
}

// With refresh_margin the broker does not ask before that.
func TestRefreshMarginOfTheConnector(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.configureConnector(acme, func(c *record.Connector) { c.RefreshMargin = 30 * time.Second })
		const lifetime = 10 * time.Minute
		c := newCrowd(t, h, 3, lifetime)
		c.refuseBefore(30*time.Second, lifetime, deadWordings[0])
		c.call(2 * time.Hour)
		if got := len(h.provider.Requests()); got > 3*13 {
			t.Errorf("got %d token requests, want one for each token", got)
		}
		if got := h.events.types(); got != "" {
			t.Errorf("got the events %q, want none", got)
		}
	})
}

// An operator who validates a connection during a pause gets an answer, and the others go on
// if it is a good one.
func TestValidateEndsAPause(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		var mended atomic.Bool // at the provider
		h.provider.Respond = func(int, url.Values) (*http.Response, error) {
			if mended.Load() {
				return nil, nil
			}
			return brokertest.Response(401, map[string]any{"error": "invalid_client"}), nil
		}
		first, second := h.importAs("first", "r1"), h.importAs("second", "r2")
		time.Sleep(time.Minute)
		mended.Store(true)
		if _, err := h.Validate(t.Context(), second); err != nil {
			t.Errorf("got %v, want a valid connection", err)
		}
		time.Sleep(time.Second)
		h.token(first)
		h.token(second)
	})
}

// The connection whose turn comes may be deleted by then.
func TestDeletedConnectionKeepsNoOtherWaiting(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		mended := h.refuseSome()
		for i := range 3 {
			h.importAs(fmt.Sprint("bad ", i), fmt.Sprint("bad ", i))
		}
		gone := h.importAs("gone", "r1")
		waits := h.importAs("waits", "r2")
		if err := h.Delete(t.Context(), gone); err != nil {
			t.Fatal(err)
		}
		time.Sleep(11 * time.Second)
		h.token(waits)
		if h.record(waits).Generation != 2 || mended.Load() {
			t.Error("the connection that waited was not refreshed")
		}
	})
}

// A connection that was refused until its customer is asked to authorise again is tried once
// an hour, when an operator asks, and when it is imported: one success ends that.
func TestRefusedConnectionComesBack(t *testing.T) {
	t.Parallel()
	for name, again := range map[string]func(h *harness, key record.Key){
		"by itself":   func(*harness, record.Key) { time.Sleep(time.Hour + 7*time.Minute) },
		"validated":   func(h *harness, key record.Key) { _, _ = h.Validate(h.t.Context(), key) },
		"imported":    func(h *harness, _ record.Key) { h.importAs("one", "bad one") },
		"new tokens":  func(h *harness, _ record.Key) { h.importAs("one", "good one") },
		"new process": func(h *harness, _ record.Key) { h.start(); time.Sleep(time.Hour + 15*time.Minute) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			virtually(t, func(t *testing.T, h *harness) {
				mended := h.refuseSome()
				key := h.importAs("one", "bad one")
				time.Sleep(20 * time.Minute)
				view, err := h.Connection(t.Context(), key)
				if err != nil || view.Health != record.HealthNeedsAuth || view.State != record.StateInvalid {
					t.Fatalf("got health %s, state %s, %v", view.Health, view.State, err)
				}
				var failed *record.TokenError
				if _, err := h.Source(key).Token(t.Context()); !errors.As(err, &failed) || !failed.Parked || failed.Class != record.ClassRefused {
					t.Errorf("got %v, want that the connection must be authorised again", err)
				}
				if name == "new process" {
					abandon(t, h.Broker)
				}
				mended.Store(true)
				again(h, key)
				if name == "new process" { // whose sweep only knows what it has opened
					_, _ = h.Connection(t.Context(), key)
					time.Sleep(30 * time.Minute)
				}
				synctest.Wait()
				if view, err = h.Connection(t.Context(), key); err != nil || view.Health != record.HealthOK {
					t.Errorf("got health %s, %v, want ok", view.Health, err)
				}
				h.token(key)
				if got := h.eventsOf(key); name != "new tokens" && got != "pending failed recovered" {
					t.Errorf("got the events %q", got)
				}
			})
		})
	}
}

// Refusals of one tenant's token endpoint do not slow down another's.
func TestDoubtIsAboutOneTokenEndpoint(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		tenants := connector.ID{UnifiedAPI: "crm", ServiceID: "tenants"}
		h.connect(connector.Definition{
			ID: tenants, TokenURL: "https://{tenant}.acme.test/token", Settings: []connector.Setting{{Name: "tenant", Required: true}},
		})
		h.Configure(h.config)
		h.refuseSome()
		add := func(customer, tenant, refresh string) record.Key {
			key := h.at(tenants)
			key.Consumer = customer
			h.provider.Grant(refresh)
			h.mustImportBody(key, fmt.Sprintf(`{"credentials":{"access_token":"a","refresh_token":%q,%s},"settings":{"tenant":%q}}`, refresh, issued(2*time.Hour), tenant))
			synctest.Wait()
			return key
		}
		for i := range 4 {
			add(fmt.Sprint("bad ", i), "theirs", fmt.Sprint("bad ", i))
		}
		if got := len(h.provider.Requests()); got != 3 {
			t.Errorf("got %d token requests, want 3", got)
		}
		h.token(add("good", "other", "r1"))
	})
}

// A token that downstream refuses is not valid: a refusal to replace it counts.
func TestRefusalAfterA401Counts(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.refuseSome()
		h.mustImport("a1", "bad one", issued(0))
		auth, err := h.Authorize(request(t, "https://api.acme.test/"), h.key)
		if err != nil {
			t.Fatal(err)
		}
		if auth.Renew(t.Context()) {
			t.Error("there is a newer token")
		}
		synctest.Wait()
		if rec := h.record(h.key); rec.Cycle.Refused != 1 || h.events.types() != "pending" {
			t.Errorf("got %d refusals, events %q", rec.Cycle.Refused, h.events.types())
		}
	})
}
