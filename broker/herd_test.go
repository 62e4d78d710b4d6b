package broker_test

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker"
	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// visitors counts the requests at one place: how many are there at a time, and when they began.
type visitors struct {
	mu      sync.Mutex
	present int         // guarded by mu
	peak    int         // guarded by mu
	begun   []time.Time // guarded by mu
}

// visit stays for that long.
func (c *visitors) visit(d time.Duration) {
	c.mu.Lock()
	c.present++
	c.peak = max(c.peak, c.present)
	c.begun = append(c.begun, time.Now())
	c.mu.Unlock()
	time.Sleep(d)
	c.mu.Lock()
	c.present--
	c.mu.Unlock()
}

// reset forgets the requests so far.
func (c *visitors) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.peak, c.begun = c.present, nil
}

// total returns how many requests have begun.
func (c *visitors) total() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.begun)
}

// want checks how many requests were there at a time, and how many began within a second.
func (c *visitors) want(t *testing.T, atATime, aSecond int) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	busiest, first := 0, 0
	for i, at := range c.begun {
		for at.Sub(c.begun[first]) >= time.Second {
			first++
		}
		busiest = max(busiest, i-first+1)
	}
	if c.peak > atATime || busiest > aSecond {
		t.Errorf("%d requests at a time and %d within a second, want at most %d and %d", c.peak, busiest, atATime, aSecond)
	}
}

// importHerd imports n connections of an application, with tokens of an hour and of that age.
func (h *harness) importHerd(application string, n int, age time.Duration) []record.Key {
	h.t.Helper()
	keys := make([]record.Key, n)
	for i := range keys {
		keys[i] = h.of(fmt.Sprint("customer-", i))
		keys[i].Application = application
		refresh := fmt.Sprint(application, "-", i)
		h.provider.Grant(refresh)
		h.mustImportBody(keys[i], fmt.Sprintf(`{"credentials":{"access_token":"a","refresh_token":%q,%s}}`, refresh, issued(age)))
	}
	return keys
}

// limitRefreshes sets the budget of acme's token endpoint.
func (h *harness) limitRefreshes(rate connector.Rate, concurrency int) {
	h.t.Helper()
	h.configureConnector(acme, func(c *record.Connector) { c.RefreshRate, c.RefreshConcurrency = rate, concurrency })
}

// An import of many tokens that have expired is no herd of requests, neither at the token
// endpoint nor at the store, and a caller does not wait behind it.
func TestImportOfExpiredTokensIsNoHerd(t *testing.T) {
	t.Parallel()
	const connections = 2000
	virtually(t, func(t *testing.T, h *harness) {
		var endpoint, store visitors
		h.provider.Deliver = func(int) error { endpoint.visit(200 * time.Millisecond); return nil }
		h.store.Fail = func(string, record.Key) error { store.visit(5 * time.Millisecond); return nil }
		keys := h.importHerd("app", connections, 2*time.Hour)
		endpoint.want(t, 8, 20)
		store.reset()
		for _, key := range slices.Backward(keys[connections-50:]) {
			begun := time.Now()
			if got := h.token(key); got == "a" {
				t.Fatal("got the expired token")
			}
			if took := time.Since(begun); took > time.Second {
				t.Fatalf("a call waited %v, behind refreshes that no caller waits for", took)
			}
		}
		time.Sleep(connections / 20 * time.Second)
		synctest.Wait()
		if got := len(h.provider.Requests()); got != connections {
			t.Errorf("got %d token requests, want one for each of %d connections", got, connections)
		}
		endpoint.want(t, 9, 25) // with a call
		store.want(t, 12, 4*25)
		for _, key := range keys {
			if h.record(key).Cycle.Queued {
				t.Fatalf("%s was not refreshed", key)
			}
		}
	})
}

// Many tokens expire within a minute. A budget that is enough for them refreshes all in time:
// no call waits.
func TestTokensThatExpireTogetherAreRefreshedInTime(t *testing.T) {
	t.Parallel()
	const connections, rate = 400, 2 // 200 s, of the 270 s at least before the expiry
	virtually(t, func(t *testing.T, h *harness) {
		var endpoint visitors
		h.provider.Deliver = func(int) error { endpoint.visit(200 * time.Millisecond); return nil }
		h.limitRefreshes(rate, 1)
		keys := h.importHerd("app", connections, 0)
		time.Sleep(50 * time.Minute)
		h.callWithoutWaiting(keys, 11*time.Minute)
		if got := endpoint.total(); got != connections {
			t.Errorf("%d of %d tokens were refreshed", got, connections)
		}
		endpoint.want(t, 1, rate)
	})
}

// callWithoutWaiting calls each connection every 30 s, and checks that none of the calls waits.
func (h *harness) callWithoutWaiting(keys []record.Key, d time.Duration) {
	h.t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(30 * time.Second) {
		for _, key := range keys {
			begun := time.Now()
			h.token(key)
			if took := time.Since(begun); took > 0 {
				h.t.Fatalf("a call of %s waited for %v", key, took)
			}
		}
	}
}

// The budget is not enough for all. Tokens in use are refreshed in time, those of another
// application's import later.
func TestCalledTokensComeBeforeAnImport(t *testing.T) {
	t.Parallel()
	const called, imported, rate = 150, 500, 1 // 500 s for the import alone
	virtually(t, func(t *testing.T, h *harness) {
		h.limitRefreshes(rate, 2)
		keys := h.importHerd("app", called, 0)
		time.Sleep(54*time.Minute + 30*time.Second) // just before they are due
		h.importHerd("other", imported, 2*time.Hour)
		h.callWithoutWaiting(keys, 6*time.Minute)
		time.Sleep(10 * time.Minute)
		if got := len(h.provider.Requests()); got != called+imported {
			t.Errorf("got %d token requests, want %d", got, called+imported)
		}
	})
}

// The record of a connection changes while its refresh waits for the budget.
func TestRefreshThatWaitsGoesByTheRecordAsItIsThen(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		both := replicas(t, 2)
		h, other := both[0], both[1]
		h.limitRefreshes(1, 1)
		h.provider.Deliver = func(int) error { time.Sleep(10 * time.Second); return nil }
		first := h.importAs("first", "first")
		deleted, disabled := h.importAs("deleted", "deleted"), h.importAs("disabled", "disabled")
		again, taken := h.importAs("again", "again"), h.importAs("taken", "taken")
		if err := h.Delete(t.Context(), deleted); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Update(t.Context(), disabled, &record.Update{Enabled: new(bool)}); err != nil {
			t.Fatal(err)
		}
		h.importAs("again", "newer")
		other.token(taken)
		time.Sleep(time.Minute)
		if got := h.redeemed(); !slices.Equal(got, []string{"first", "taken", "newer"}) {
			t.Errorf("redeemed %q", got)
		}
		for _, key := range []record.Key{first, again, taken} {
			if rec := h.record(key); rec.Cycle.Queued || rec.Lease != nil {
				t.Errorf("%s: the refresh has not ended", key)
			}
		}
	})
}

// A shutdown does not wait for refreshes that wait for the budget. The next process does them.
func TestRefreshesThatWaitSurviveARestart(t *testing.T) {
	t.Parallel()
	const connections = 200
	virtually(t, func(t *testing.T, h *harness) {
		h.limitRefreshes(1, 1)
		keys := h.importHerd("app", connections, 2*time.Hour)
		time.Sleep(10 * time.Second)
		begun := time.Now()
		h.restart(broker.Options{
			Open:      func(context.Context) (record.Store, error) { return h.store, nil },
			Transport: h.transport(), Journal: h.journal,
		})
		if took := time.Since(begun); took > time.Second {
			t.Errorf("the shutdown took %v", took)
		}
		if got := len(h.provider.Requests()); got > 12 {
			t.Errorf("the shutdown sent token requests: %d", got)
		}
		if err := h.Ready(t.Context()); err != nil {
			t.Fatal(err) // the sweep begins with the first use of the store
		}
		time.Sleep(time.Hour)
		for _, key := range keys {
			if h.record(key).Cycle.Queued {
				t.Fatalf("%s was not refreshed", key)
			}
		}
	})
}

// A reload with another budget applies to refreshes that wait.
func TestReloadChangesTheBudgetOfWhatWaits(t *testing.T) {
	t.Parallel()
	const connections = 500
	virtually(t, func(t *testing.T, h *harness) {
		h.limitRefreshes(1, 1)
		h.importHerd("app", connections, 2*time.Hour)
		time.Sleep(10*time.Second - time.Millisecond)
		if got := len(h.provider.Requests()); got > 10 {
			t.Errorf("got %d token requests in 10 s, want one a second", got)
		}
		h.limitRefreshes(100, 8)
		time.Sleep(6 * time.Second)
		if got := len(h.provider.Requests()); got != connections {
			t.Errorf("got %d token requests, want %d", got, connections)
		}
	})
}

// A token endpoint that hangs holds up no other one, and a caller of it only for one request.
func TestTokenEndpointThatHangsHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.connect(connector.Definition{ID: long, TokenURL: "https://auth.other.test/token"})
		var endpoint visitors
		h.provider.Respond = func(_ int, form url.Values) (*http.Response, error) {
			if form.Get("refresh_token") != "other" {
				endpoint.visit(time.Minute)
				return brokertest.Response(http.StatusServiceUnavailable, map[string]any{}), nil
			}
			return nil, nil
		}
		h.importHerd("app", 100, 2*time.Hour)
		h.provider.Grant("other")
		h.mustImportBody(h.at(long), `{"credentials":{"access_token":"a","refresh_token":"other",`+issued(2*time.Hour)+`}}`)
		time.Sleep(time.Second)
		if h.record(h.at(long)).Cycle.Queued {
			t.Error("the other endpoint's connection was not refreshed")
		}
		time.Sleep(30 * time.Minute)
		endpoint.want(t, 8, 8)
	})
}
