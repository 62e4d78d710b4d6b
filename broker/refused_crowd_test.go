package broker_test

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// However many grants are dead, and however their token endpoint says so, no other connection's
// token runs out. A dead connection costs at most 8 requests until its customer is asked, and one
// an hour from then on. One whose token is valid at first costs another request each time that
// the rest of the lifetime can be halved.
func TestDeadGrantsOfEveryWordingHurtNoOtherConnection(t *testing.T) {
	t.Parallel()
	type arrival struct {
		name   string
		each   int // requests
		arrive func(c *crowd, dead int, lifetime time.Duration)
	}
	arrivals := []arrival{
		{"at once", 8, func(c *crowd, dead int, lifetime time.Duration) { c.addDead(dead, 2*lifetime, lifetime) }},
		{"one after the other", 8, func(c *crowd, dead int, lifetime time.Duration) {
			for range dead {
				c.addDead(1, 2*lifetime, lifetime)
				c.call(20 * time.Minute / time.Duration(dead))
			}
		}},
		{"valid at first", 14, func(c *crowd, dead int, lifetime time.Duration) {
			c.addDead(dead, lifetime/2, lifetime)
			c.call(lifetime / 2)
		}},
	}
	for _, lifetime := range []time.Duration{4 * time.Minute, 20 * time.Minute} {
		for _, dead := range []int{1, 3, 12, 50} {
			for _, arrival := range arrivals {
				t.Run(fmt.Sprintf("%d of %v %s", dead, lifetime, arrival.name), func(t *testing.T) {
					t.Parallel()
					virtually(t, func(t *testing.T, h *harness) {
						c := newCrowd(t, h, 10, lifetime)
						arrival.arrive(c, dead, lifetime)
						c.call(30 * time.Minute)
						c.wantNeedsAuth()
						before := h.requestsOf("dead")
						if before > arrival.each*dead {
							t.Errorf("got %d token requests for %d dead connections", before, dead)
						}
						c.call(time.Hour)
						if got := h.requestsOf("dead") - before; got > 2*dead {
							t.Errorf("got %d token requests more in an hour", got)
						}
					})
				})
			}
		}
	}
}

// The same with everything that token endpoints are known to have said without a word of which
// the broker knows the meaning.
func TestDeadGrantsOfEveryKnownWordingHurtNoOtherConnection(t *testing.T) {
	t.Parallel()
	wordings := knownWordings(t)
	for _, lifetime := range []time.Duration{4 * time.Minute, 20 * time.Minute} {
		t.Run(lifetime.String(), func(t *testing.T) {
			t.Parallel()
			virtually(t, func(t *testing.T, h *harness) {
				c := newCrowd(t, h, 10, lifetime)
				c.wordings = wordings
				c.addDead(50, 2*lifetime, lifetime)
				c.call(30 * time.Minute)
				c.wantNeedsAuth()
				if got := h.requestsOf("dead"); got > 8*50 {
					t.Errorf("got %d token requests for 50 dead connections", got)
				}
			})
		})
	}
}

// All at once: dead grants that are refused in every way, pages of a network in front, a client
// that is refused, and a token endpoint that is overloaded now and then.
func TestMixtureOfRefusalsHurtsNoHealthyConnection(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		const lifetime = 10 * time.Minute
		c := newCrowd(t, h, 20, lifetime)
		c.wordings = append(slices.Clone(deadWordings),
			func() *http.Response { return brokertest.Response(403, "<html>") },
			func() *http.Response { return brokertest.Response(400, map[string]any{"error": "invalid_grant"}) },
			func() *http.Response { return brokertest.Response(401, map[string]any{"error": "invalid_client"}) },
		)
		answer := h.provider.Respond
		begun := time.Now()
		h.provider.Respond = func(n int, form url.Values) (*http.Response, error) {
			if time.Since(begun)%(7*time.Minute) < 20*time.Second {
				return brokertest.Response(503, "busy"), nil
			}
			return answer(n, form)
		}
		for i := range 50 {
			c.addDead(1, lifetime*time.Duration(i%3)/2, lifetime)
			c.call(30 * time.Second)
		}
		c.call(time.Hour)
		if got := h.requestsOf("dead"); got > 50*25 {
			t.Errorf("got %d token requests for 50 dead connections", got)
		}
	})
}

// A page that is not an OAuth response says nothing about a grant: no customer is asked to
// authorise again.
func TestChallengePagesAreNoVerdict(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		c := newCrowd(t, h, 10, 10*time.Minute)
		c.wordings = []func() *http.Response{func() *http.Response { return brokertest.Response(403, "<html>Just a moment...</html>") }}
		c.addDead(20, time.Hour, 10*time.Minute)
		c.call(time.Hour)
		for _, key := range c.dead {
			if view, err := h.Connection(t.Context(), key); err != nil || view.Health != record.HealthPendingRefresh {
				t.Errorf("%s has health %s, %v", key.Consumer, view.Health, err)
			}
			if got := h.eventsOf(key); got != "pending failed" {
				t.Errorf("%s has the events %q", key.Consumer, got)
			}
		}
	})
}

// A token endpoint that is down for an hour, or refuses every connection without a reason, costs
// no credential, and serves every connection soon after it is mended.
func TestTokenEndpointThatServesNoConnectionForAnHour(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]func() *http.Response{
		"down":           func() *http.Response { return brokertest.Response(503, "") },
		"refuses":        deadWordings[0],
		"wrong client":   func() *http.Response { return brokertest.Response(401, map[string]any{"error": "invalid_client"}) },
		"challenge page": func() *http.Response { return brokertest.Response(403, "<html>") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			virtually(t, func(t *testing.T, h *harness) {
				c := newCrowd(t, h, 50, 10*time.Minute)
				c.call(10 * time.Minute)
				c.outage.Store(&answer)
				healthy := c.healthy
				c.dead, c.healthy = slices.Clone(healthy), nil // for an hour
				before := len(h.provider.Requests())
				c.call(time.Hour)
				// Of each connection one every 30 s at most, once the job is given up.
				if got := len(h.provider.Requests()) - before; got > 50*130 {
					t.Errorf("got %d token requests in an hour", got)
				}
				c.outage.Store(nil)
				time.Sleep(5*time.Minute + 10*time.Second)
				c.dead = nil
				for _, key := range healthy {
					if view, err := h.Connection(t.Context(), key); err == nil && view.Health == record.HealthNeedsAuth && name == "refuses" {
						continue // it is tried again within the hour, or when an operator asks
					}
					h.token(key)
				}
				time.Sleep(time.Hour)
				for _, key := range healthy {
					h.token(key)
				}
			})
		})
	}
}

// When the client secret of a thousand connections becomes wrong, one refusal is enough to pause
// them, and the token endpoint is tried less and less often.
func TestClientSecretGoesWrong(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		c := newCrowd(t, h, 1000, time.Hour)
		c.call(time.Minute)
		time.Sleep(time.Hour)
		wrongClient := func() *http.Response { return brokertest.Response(401, map[string]any{"error": "invalid_client"}) }
		c.outage.Store(&wrongClient)
		before := len(h.provider.Requests())
		for _, key := range c.healthy {
			_, _ = h.Source(key).Token(t.Context())
			synctest.Wait()
		}
		time.Sleep(time.Hour)
		if got := len(h.provider.Requests()) - before; got > 18 {
			t.Errorf("got %d token requests in an hour, want at most 18", got)
		}
		if got := h.events.types(); strings.Count(got, "failed") != 1 {
			t.Errorf("got the events %q, want one failed", got)
		}
		c.outage.Store(nil) // the broker is not told
		time.Sleep(7 * time.Minute)
		for _, key := range c.healthy {
			h.token(key)
		}
	})
}

// Connections that are imported all the time, and for which the token endpoint refuses the client,
// do not keep others from being refreshed.
func TestRubbishImportsKeepNoConnectionWaiting(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]func() *http.Response{
		"invalid_client": func() *http.Response { return brokertest.Response(401, map[string]any{"error": "invalid_client"}) },
		"refused":        deadWordings[0],
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			virtually(t, func(t *testing.T, h *harness) {
				c := newCrowd(t, h, 10, 4*time.Minute)
				c.wordings = []func() *http.Response{answer}
				c.call(5 * time.Minute)
				for range 60 {
					c.addDead(1, time.Minute, 2*time.Minute)
					c.addDead(1, time.Hour, time.Minute)
					c.call(20 * time.Second)
				}
			})
		})
	}
}
