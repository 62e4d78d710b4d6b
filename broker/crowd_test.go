package broker_test

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/brokertest/answertest"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// deadWordings are the responses, other than invalid_grant, with which token endpoints say that a
// grant is gone.
var deadWordings = []func() *http.Response{
	func() *http.Response { // Atlassian
		return brokertest.Response(403, map[string]any{"error": "unauthorized_client", "error_description": "refresh_token is invalid"})
	},
	func() *http.Response { return brokertest.Response(400, map[string]any{"error": "invalid_request"}) },
	func() *http.Response { // Twitch
		return brokertest.Response(400, map[string]any{"status": 400, "message": "Invalid refresh token"})
	},
	func() *http.Response { // Microsoft
		return brokertest.Response(400, map[string]any{"error": "interaction_required", "error_description": "AADSTS50079: ..."})
	},
	func() *http.Response { return brokertest.Response(200, map[string]any{"error": "session_gone"}) },
	func() *http.Response { return brokertest.Response(401, "") },
}

// knownWordings returns the responses in the testdata of package tokenendpoint that may be about
// one connection or about the client.
func knownWordings(t *testing.T) []func() *http.Response {
	t.Helper()
	var wordings []func() *http.Response
	answers := answertest.Read(t, "internal/tokenendpoint/testdata/answers")
	for _, name := range slices.Sorted(maps.Keys(answers)) {
		if a := answers[name]; a.Want.Class == record.ClassRefused {
			wordings = append(wordings, func() *http.Response { return a.Response(time.Now()) })
		}
	}
	if len(wordings) < 20 {
		t.Fatalf("got %d wordings", len(wordings))
	}
	return wordings
}

// A crowd is a number of connections to one token endpoint, some of them dead. All are called
// all the time.
type crowd struct {
	*harness
	t           *testing.T
	healthy     []record.Key
	dead        []record.Key
	wordings    []func() *http.Response
	failedCalls int
	outage      atomic.Pointer[func() *http.Response] // the answer to every request; nil: none
}

// newCrowd returns a crowd of healthy connections whose tokens have this lifetime and different
// ages.
func newCrowd(t *testing.T, h *harness, healthy int, lifetime time.Duration) *crowd {
	c := &crowd{harness: h, t: t, wordings: deadWordings}
	h.provider.Lifetime = lifetime
	h.provider.Respond = func(_ int, form url.Values) (*http.Response, error) {
		if answer := c.outage.Load(); answer != nil {
			return (*answer)(), nil
		}
		number, dead := strings.CutPrefix(form.Get("refresh_token"), "dead-")
		if !dead {
			return nil, nil
		}
		n, err := strconv.Atoi(number)
		if err != nil {
			return nil, err
		}
		return c.wordings[n%len(c.wordings)](), nil
	}
	for i := range healthy {
		age := time.Duration(i) * lifetime / time.Duration(healthy) / 2
		c.healthy = append(c.healthy, c.connect(fmt.Sprint("healthy ", i), fmt.Sprint("grant-", i), age, lifetime))
	}
	return c
}

func (c *crowd) connect(customer, refresh string, age, lifetime time.Duration) record.Key {
	c.t.Helper()
	key := c.key
	key.Consumer = customer
	if !strings.HasPrefix(refresh, "dead") {
		c.provider.Grant(refresh)
	}
	if _, _, err := c.importBody(key, fmt.Sprintf(`{"credentials":{"access_token":"a","refresh_token":%q,"issued_at":%q,"expires_in":%d}}`,
		refresh, time.Now().Add(-age).UTC().Format(time.RFC3339), int(lifetime.Seconds()))); err != nil {
		c.t.Fatal(err)
	}
	return key
}

// addDead adds n connections whose tokens have this age and lifetime, and whose grants are gone.
func (c *crowd) addDead(n int, age, lifetime time.Duration) {
	c.t.Helper()
	for range n {
		i := len(c.dead)
		c.dead = append(c.dead, c.connect(fmt.Sprint("dead ", i), fmt.Sprint("dead-", i), age, lifetime))
	}
}

// call calls every connection every 3 s for a while. No healthy one may fail.
func (c *crowd) call(howLong time.Duration) {
	c.t.Helper()
	for begun := time.Now(); time.Since(begun) < howLong; time.Sleep(3 * time.Second) {
		for _, key := range c.healthy {
			if _, err := c.Source(key).Token(c.t.Context()); err != nil {
				if c.failedCalls++; c.failedCalls < 4 {
					c.t.Errorf("after %v: %v", time.Since(begun), err)
				}
			}
		}
		for _, key := range c.dead {
			_, _ = c.Source(key).Token(c.t.Context())
		}
	}
}

// eventsOf returns the events of a connection.
func (h *harness) eventsOf(key record.Key) string {
	h.events.mu.Lock()
	defer h.events.mu.Unlock()
	var types []string
	for _, e := range h.events.events {
		if e.Connection.Key == key {
			types = append(types, strings.TrimPrefix(string(e.Type), "vault.connection.token_refresh."))
		}
	}
	return strings.Join(types, " ")
}

// wantNeedsAuth checks that the customer of each dead connection is asked once to authorise
// again, and that no credentials are lost.
func (c *crowd) wantNeedsAuth() {
	c.t.Helper()
	synctest.Wait()
	for i, key := range c.dead {
		view, err := c.Connection(c.t.Context(), key)
		if err != nil || view.Health != record.HealthNeedsAuth || !view.CredentialsExpireAt.IsZero() {
			c.t.Errorf("dead %d has health %s (%v), its credentials expire at %v", i, view.Health, err, view.CredentialsExpireAt)
		}
		if got := c.eventsOf(key); strings.Count(got, "failed") != 1 || strings.Contains(got, "recovered") {
			c.t.Errorf("dead %d has the events %q, want one failed", i, got)
		}
	}
	for _, key := range c.healthy {
		if got := c.eventsOf(key); got != "" {
			c.t.Errorf("%s has the events %q, want none", key.Consumer, got)
		}
	}
}

// requestsOf returns the number of token requests whose refresh token has this prefix.
func (h *harness) requestsOf(prefix string) (n int) {
	for _, token := range h.redeemed() {
		if strings.HasPrefix(token, prefix) {
			n++
		}
	}
	return n
}

// refuseBefore makes the token endpoint refuse to replace a token that is valid for longer than
// margin.
func (c *crowd) refuseBefore(margin, lifetime time.Duration, refusal func() *http.Response) {
	c.provider.Respond = func(_ int, form url.Values) (*http.Response, error) {
		for _, key := range c.healthy {
			rec := c.record(key)
			if rec.Credentials.RefreshToken.Equal(secret.New(form.Get("refresh_token"))) && time.Until(rec.Credentials.Expiry) > margin {
				return refusal(), nil
			}
		}
		return nil, nil
	}
}
