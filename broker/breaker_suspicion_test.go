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
)

// refuseSome refuses refresh tokens that begin with "bad", with a code that does not say
// what is wrong, until the returned switch is true.
func (h *harness) refuseSome() *atomic.Bool {
	var mended atomic.Bool
	h.provider.Respond = func(_ int, form url.Values) (*http.Response, error) {
		if strings.HasPrefix(form.Get("refresh_token"), "bad") && !mended.Load() {
			return brokertest.Response(400, map[string]any{"error": "invalid_request"}), nil
		}
		return nil, nil
	}
	return &mended
}

// importAs imports an expired token for a customer, which the broker then refreshes.
func (h *harness) importAs(customer, refresh string) record.Key {
	h.t.Helper()
	key := h.of(customer)
	h.provider.Grant(refresh)
	h.mustImportBody(key, fmt.Sprintf(`{"credentials":{"access_token":"a","refresh_token":%q,%s}}`, refresh, issued(2*time.Hour)))
	synctest.Wait()
	return key
}

// One customer's refresh token is malformed, and the token endpoint says invalid_request.
// No other connection waits for that.
func TestRefusalOfOneConnectionDoesNotTripTheBreakerOfTheConnector(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.refuseSome()
		for i := range 10 {
			bad := h.importAs(fmt.Sprint("bad ", i), fmt.Sprint("bad ", i))
			if _, err := h.Source(bad).Token(t.Context()); err == nil {
				t.Error("a refused connection has a token")
			}
			h.token(h.importAs(fmt.Sprint("good ", i), fmt.Sprint("good ", i)))
		}
		if got := strings.Count(h.events.types(), "pending"); got != 10 {
			t.Errorf("got %d events pending, want one for each connection that is refused", got)
		}
	})
}

// When one connection after the other gets that answer, the fault is likely the connector's: the
// token endpoint gets a request every 10 s at most, and no connection waits once one is accepted.
func TestRefusalsInARowSpaceTheRequests(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		mended := h.refuseSome()
		const connections = 100
		keys := make([]record.Key, connections)
		for i := range keys {
			keys[i] = h.importAs(fmt.Sprint("customer ", i), fmt.Sprint("bad ", i))
		}
		if got := len(h.provider.Requests()); got != 3 {
			t.Errorf("got %d token requests, want 3: then the client is in doubt", got)
		}
		if got := h.events.types(); got != "pending pending pending" {
			t.Errorf("got events %q, want three", got)
		}
		time.Sleep(5 * time.Minute)
		if got := len(h.provider.Requests()); got < 30 || got > 34 {
			t.Errorf("got %d token requests in 5 minutes, want one every 10 s", got)
		}
		mended.Store(true)
		time.Sleep(20 * time.Second)
		for _, key := range keys {
			if h.record(key).Cycle.RetryAt.Before(time.Now()) { // it was not refused lately
				h.token(key)
			}
		}
	})
}
