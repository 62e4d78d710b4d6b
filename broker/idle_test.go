package broker_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// fewSweeps is the time in which an idle connection is found and refreshed.
const fewSweeps = time.Hour

// importIdle imports n connections with tokens of an hour, and never calls them.
func (h *harness) importIdle(n int) []record.Key {
	h.t.Helper()
	keys := make([]record.Key, n)
	for i := range keys {
		keys[i] = h.of(fmt.Sprint("customer-", i))
		refresh := fmt.Sprint("grant-", i)
		h.provider.Grant(refresh)
		h.mustImportBody(keys[i], `{"credentials":{"access_token":"a","refresh_token":"`+refresh+`",`+issued(0)+`}}`)
	}
	return keys
}

// saveIdle saves a connection whose access token ran out so long ago.
func (h *harness) saveIdle(customer, refresh string, ago time.Duration) record.Key {
	h.t.Helper()
	ranOut := time.Now().Add(-ago)
	rec := &record.Record{
		Key: h.of(customer), Enabled: true, Generation: 1, CreatedAt: ranOut.Add(-time.Hour),
		Credentials: &record.Credentials{
			AccessToken: secret.New("a"), RefreshToken: secret.New(refresh), IssuedAt: ranOut.Add(-time.Hour), Expiry: ranOut,
		},
	}
	if _, err := h.store.Save(h.t.Context(), rec, 0); err != nil {
		h.t.Fatal(err)
	}
	return rec.Key
}

// The health of connections that no caller uses is never older than a day: each is refreshed
// once its token ran out a day ago, and a grant that is gone is found.
func TestIdleConnectionsAreRefreshed(t *testing.T) {
	t.Parallel()
	const connections = 1000
	virtually(t, func(t *testing.T, h *harness) {
		keys := make([]record.Key, connections)
		for i := range keys {
			refresh := fmt.Sprint("grant-", i)
			h.provider.Grant(refresh)
			keys[i] = h.saveIdle(fmt.Sprint("customer-", i), refresh, 23*time.Hour)
		}
		dead := h.saveIdle("whose grant is gone", "gone", 23*time.Hour)
		h.wantView(dead, record.StateCallable, record.HealthOK)

		time.Sleep(59 * time.Minute)
		h.wantRequests("before", 0)
		time.Sleep(fewSweeps)
		h.wantRequests("after a day", connections+1)
		for _, key := range keys {
			if rec := h.record(key); !rec.Credentials.Redeemed || rec.Cycle.Queued || rec.Lease != nil {
				t.Fatalf("%s was not refreshed", key)
			}
		}
		h.wantView(dead, record.StateInvalid, record.HealthNeedsAuth)
		if got := h.events.types(); got != "failed" {
			t.Errorf("got events %q, want one failed", got)
		}
		time.Sleep(fewSweeps)
		h.wantRequests("later", connections+1)
	})
}

func TestIdleConnectionsAreRefreshedAfterTheConfiguredTime(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		idle     time.Duration
		min, max int // requests in 26 hours: one each time that a token of an hour ran out idle ago
	}{
		"off":     {-1, 0, 0},
		"default": {0, 1, 1},
		"short":   {2 * time.Hour, 7, 8},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			virtually(t, func(t *testing.T, h *harness) {
				h.configure(func(cfg *record.Config) { cfg.RefreshIdle = test.idle })
				h.importIdle(1)
				time.Sleep(26 * time.Hour)
				if got := len(h.provider.Requests()); got < test.min || got > test.max {
					t.Errorf("got %d token requests, want %d to %d", got, test.min, test.max)
				}
			})
		})
	}
}

func TestIdleConnectionsThatCannotBeRefreshedAreLeftAlone(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.mustImportBody(h.at(long), `{"credentials":{"access_token":"a",`+issued(0)+`}}`)
		h.importIdle(1)
		disabled := false
		if _, err := h.Update(t.Context(), h.of("customer-0"), &record.Update{Enabled: &disabled}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(72 * time.Hour)
		h.wantRequests("in three days", 0)
	})
}

// After the background job has given up, an idle connection is tried again a day later.
func TestIdleConnectionIsTriedAgainAfterAnOutage(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		begun := time.Now()
		h.provider.Respond = func(int, url.Values) (*http.Response, error) {
			if time.Since(begun) < 30*time.Hour {
				return brokertest.Response(503, "down"), nil
			}
			return nil, nil
		}
		h.importIdle(1)
		time.Sleep(28 * time.Hour)
		if got := h.events.types(); got != "pending failed" {
			t.Errorf("during the outage: got events %q, want pending failed", got)
		}
		attempts := len(h.provider.Requests())
		time.Sleep(20 * time.Hour)
		h.wantRequests("after the job has given up", attempts)
		time.Sleep(4 * time.Hour)
		h.wantRequests("a day later", attempts+1)
		if got := h.events.types(); got != "pending failed recovered" {
			t.Errorf("got events %q, want pending failed recovered", got)
		}
	})
}

// While a client is refused, sweeps start only a few of its idle connections.
func TestIdleConnectionsOfARefusedClientAreNotAllTried(t *testing.T) {
	t.Parallel()
	const connections = 150
	virtually(t, func(t *testing.T, h *harness) {
		var accepted atomic.Bool
		h.provider.Respond = func(int, url.Values) (*http.Response, error) {
			if accepted.Load() {
				return nil, nil
			}
			return brokertest.Response(401, map[string]any{"error": "invalid_client"}), nil
		}
		h.importIdle(connections)
		time.Sleep(25*time.Hour + fewSweeps)
		synctest.Wait()
		before := len(h.provider.Requests())
		if before == 0 {
			t.Fatal("no connection was tried")
		}
		time.Sleep(10 * time.Hour)
		// One request in five minutes is what a pause allows.
		if got := len(h.provider.Requests()) - before; got > 130 {
			t.Errorf("got %d token requests in ten hours of a pause", got)
		}
		accepted.Store(true)
		time.Sleep(fewSweeps)
		for i := range connections {
			if rec := h.record(h.of(fmt.Sprint("customer-", i))); !strings.HasPrefix(rec.Credentials.AccessToken.Reveal(), "access-") {
				t.Fatalf("customer-%d is not refreshed an hour after the pause", i)
			}
		}
	})
}
