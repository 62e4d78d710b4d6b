package broker_test

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
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

// In one application the newest of those that were never accepted goes first.
func TestNewConnectionDoesNotWaitForDeadOnesThatCameBefore(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		c := newCrowd(t, h, 0, 10*time.Minute)
		c.addDead(50, time.Hour, 10*time.Minute)
		c.call(time.Minute)
		customer := c.connect("new", "grant-new", time.Hour, 10*time.Minute)
		if got := c.waitFor(customer, time.Hour); got > 12*time.Second {
			t.Errorf("got a token after %v, want one within seconds", got)
		}
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
		"500":     func(context.Context) (*http.Response, error) { return brokertest.Response(500, ""), nil },
		"timeout": func(context.Context) (*http.Response, error) { time.Sleep(time.Minute); return nil, context.DeadlineExceeded },
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
