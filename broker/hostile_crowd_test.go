package broker_test

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// waitFor returns how long a connection's calls fail until one gets a token, in steps of a second.
func (c *crowd) waitFor(key record.Key, most time.Duration) time.Duration {
	c.t.Helper()
	begun := time.Now()
	for time.Since(begun) < most {
		if _, err := c.Source(key).Token(c.t.Context()); err == nil {
			return time.Since(begun)
		}
		time.Sleep(time.Second)
	}
	return time.Since(begun)
}

// A customer who is new waits no longer because another application has imported hundreds of
// dead grants, however their token endpoint refuses them and whatever their tokens claim.
func TestNewConnectionDoesNotWaitForTheRubbishOfAnotherApplication(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]func() *http.Response{
		"refused":        deadWordings[0],
		"invalid_client": func() *http.Response { return brokertest.Response(401, map[string]any{"error": "invalid_client"}) },
	} {
		for _, age := range []time.Duration{time.Hour, 9 * time.Minute} { // of tokens that live 10 minutes
			t.Run(fmt.Sprint(name, " ", age), func(t *testing.T) {
				t.Parallel()
				virtually(t, func(t *testing.T, h *harness) {
					c := newCrowd(t, h, 0, 10*time.Minute)
					c.wordings = []func() *http.Response{answer}
					own := c.key.Application
					c.key.Application = "rubbish"
					c.addDead(500, age, 10*time.Minute)
					c.call(time.Minute)
					c.key.Application = own
					customer := c.connect("new", "grant-new", time.Hour, 10*time.Minute)
					if got := c.waitFor(customer, time.Hour); got > 12*time.Second {
						t.Errorf("got a token after %v, want one within seconds", got)
					}
				})
			})
		}
	}
}

// In one application the newest of those that were never accepted goes first, also if the doubt
// has ended and begun again while the others waited.
func TestNewConnectionDoesNotWaitForDeadOnesThatCameBefore(t *testing.T) {
	t.Parallel()
	for _, healthy := range []int{0, 5} {
		t.Run(fmt.Sprint(healthy, " others are healthy"), func(t *testing.T) {
			t.Parallel()
			virtually(t, func(t *testing.T, h *harness) {
				c := newCrowd(t, h, healthy, 4*time.Minute)
				c.addDead(2000, time.Hour, 4*time.Minute)
				c.dead = nil // nothing calls them
				c.call(20 * time.Minute)
				customer := c.connect("new", "grant-new", time.Hour, 4*time.Minute)
				if got := c.waitFor(customer, time.Hour); got > 12*time.Second {
					t.Errorf("got a token after %v, want one within seconds", got)
				}
			})
		})
	}
}

// While the client is in doubt, connections are tried before their token runs out, also if many
// dead ones whose token runs out earlier were imported before.
func TestDoubtLetsNoTokenRunOut(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		const lifetime = 4 * time.Minute
		c := newCrowd(t, h, 0, lifetime)
		c.addDead(50, lifetime/2+5*time.Second, lifetime)
		c.addDead(3, time.Hour, lifetime)
		for i := range 10 {
			c.healthy = append(c.healthy, c.connect(fmt.Sprint("healthy ", i), fmt.Sprint("grant-", i), lifetime/2, lifetime))
		}
		c.call(30 * time.Minute)
	})
}

// A provider that revokes most grants at once leaves the others alone.
func TestManyGrantsDieAtOnce(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		const lifetime = 4 * time.Minute
		c := newCrowd(t, h, 3, lifetime)
		var revoked sync.Map // of refresh tokens
		healthy := h.provider.Respond
		h.provider.Respond = func(n int, form url.Values) (*http.Response, error) {
			if _, gone := revoked.Load(form.Get("refresh_token")); gone {
				return deadWordings[0](), nil
			}
			return healthy(n, form)
		}
		for i := range 50 {
			c.dead = append(c.dead, c.connect(fmt.Sprint("later ", i), fmt.Sprint("later-", i), time.Minute, lifetime))
		}
		c.call(10 * time.Minute)
		for _, key := range c.dead {
			revoked.Store(c.record(key).Credentials.RefreshToken.Reveal(), true)
		}
		c.call(30 * time.Minute)
		c.wantNeedsAuth()
	})
}

// What a token endpoint says to one connection, or does not say, keeps no other one waiting.
func TestTroubleOfSomeConnectionsHurtsNoOther(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]func(ctx context.Context) (*http.Response, error){
		"429 until next year": func(context.Context) (*http.Response, error) {
			resp := brokertest.Response(429, "")
			resp.Header.Set("Retry-After", "31536000")
			return resp, nil
		},
		"503 until next year": func(context.Context) (*http.Response, error) {
			resp := brokertest.Response(503, "")
			resp.Header.Set("Retry-After", "31536000")
			return resp, nil
		},
		"500": func(context.Context) (*http.Response, error) { return brokertest.Response(500, ""), nil },
		"timeout": func(context.Context) (*http.Response, error) {
			time.Sleep(time.Minute)
			return nil, context.DeadlineExceeded
		},
		"garbage": func(context.Context) (*http.Response, error) { return brokertest.Response(200, "\x00\x01"), nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			virtually(t, func(t *testing.T, h *harness) {
				c := newCrowd(t, h, 10, 4*time.Minute)
				healthy := h.provider.Respond
				h.provider.Respond = func(n int, form url.Values) (*http.Response, error) {
					if strings.HasPrefix(form.Get("refresh_token"), "dead-") {
						return answer(t.Context())
					}
					return healthy(n, form)
				}
				c.addDead(50, time.Hour, 10*time.Minute)
				for range 60 {
					for _, key := range c.dead {
						go func() { _, _ = c.Source(key).Token(t.Context()) }()
					}
					for _, key := range c.healthy {
						begun := time.Now()
						if _, err := c.Source(key).Token(t.Context()); err != nil || time.Since(begun) > time.Second {
							t.Errorf("%s: %v after %v", key.Consumer, err, time.Since(begun))
						}
					}
					time.Sleep(10 * time.Second)
				}
				synctest.Wait()
			})
		})
	}
}
