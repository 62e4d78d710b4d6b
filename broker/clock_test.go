package broker_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker"
	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// A wrongClock is a clock whose time of day is off, and can be set.
type wrongClock struct {
	off   atomic.Int64 // nanoseconds
	begun time.Time
}

// Now implements [broker.Clock].
func (c *wrongClock) Now() time.Time { return time.Now().Round(0).Add(time.Duration(c.off.Load())) }

// Elapsed implements [broker.Clock].
func (c *wrongClock) Elapsed() time.Duration { return time.Since(c.begun) }

// Sleep implements [broker.Clock].
func (c *wrongClock) Sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *wrongClock) set(off time.Duration) { c.off.Store(int64(off)) }

// useClock restarts the harness's broker with a clock that can be set.
func (h *harness) useClock() *wrongClock {
	h.t.Helper()
	clock := &wrongClock{begun: time.Now()}
	h.restart(broker.Options{
		Open:      func(context.Context) (record.Store, error) { return h.store, nil },
		Transport: h.transport(), Journal: h.journal, Clock: clock,
	})
	return clock
}

// within calls the connection every second until it gets a token, and reports how long that
// took.
func (h *harness) within(limit time.Duration) (time.Duration, error) {
	begun := time.Now()
	for {
		_, err := h.Source(h.key).Token(h.t.Context())
		if err == nil || time.Since(begun) > limit {
			return time.Since(begun), err
		}
		time.Sleep(time.Second)
	}
}

// A failure that a replica records while its clock is wrong holds up no replica for longer than
// the backoff, whether the clock is put right or not.
func TestFailureUnderAWrongClockHoldsUpNobody(t *testing.T) {
	t.Parallel()
	failures := map[string]func() (*http.Response, error){
		"429":    func() (*http.Response, error) { return brokertest.Response(429, ""), nil },
		"500":    func() (*http.Response, error) { return brokertest.Response(500, ""), nil },
		"closed": func() (*http.Response, error) { return nil, errors.New("connection reset by peer") },
		"unknown refusal": func() (*http.Response, error) {
			return brokertest.Response(400, `{"error":"interaction_required"}`), nil
		},
		"wrong client":     func() (*http.Response, error) { return brokertest.Response(401, `{"error":"invalid_client"}`), nil },
		"429, Retry-After": func() (*http.Response, error) { return retryAfter(30), nil },
	}
	for name, failure := range failures {
		for _, off := range []time.Duration{time.Hour, 24 * time.Hour, -time.Hour, -24 * time.Hour} {
			for _, putRight := range []bool{true, false} {
				t.Run(fmt.Sprint(name, ", ", off, ", put right ", putRight), func(t *testing.T) {
					t.Parallel()
					synctest.Test(t, func(t *testing.T) {
						both := replicas(t, 2)
						clock := both[0].useClock()
						clock.set(off)
						provider := both[0].provider
						provider.Grant("r1")
						provider.Respond = func(n int, _ url.Values) (*http.Response, error) {
							if n == 1 {
								return failure()
							}
							return nil, nil
						}
						both[0].mustImport("a1", "r1", issued(48*time.Hour))
						if off < 0 { // the token is valid by a clock that is behind
							if _, err := both[0].Validate(t.Context(), both[0].key); err != nil {
								t.Log(err)
							}
						}
						synctest.Wait()
						if got := len(provider.Requests()); got != 1 {
							t.Fatalf("got %d token requests, want 1", got)
						}
						if putRight {
							clock.set(0)
						}
						limit := 10 * time.Second
						switch name {
						case "unknown refusal", "429, Retry-After":
							limit = 35 * time.Second // its backoff
						case "wrong client":
							limit = 5*time.Minute + time.Second
						}
						for i, h := range both {
							if took, err := h.within(2 * time.Hour); err != nil || took > limit {
								t.Errorf("replica %d had a token after %v (%v), want one within %v", i, took, err, limit)
							}
						}
					})
				})
			}
		}
	}
}

// A process measures the lifetime of a token by itself, so setting its clock back does not make
// an expired token valid.
func TestTokenExpiresThoughTheClockIsSetBack(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		clock := h.useClock()
		h.provider.Lifetime = 10 * time.Minute
		h.provider.Grant("r1")
		h.mustImport("a1", "r1", issued(2*time.Hour))
		synctest.Wait()
		first := h.token(h.key)
		clock.set(-24 * time.Hour)
		time.Sleep(10*time.Minute + time.Second)
		if got := h.token(h.key); got == first {
			t.Error("the expired token is served")
		}
	})
}

// Setting a clock ahead neither ends the retries of a connection early nor tells of it.
func TestRetriesGoOnThoughTheClockIsSetAhead(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		clock := h.useClock()
		h.provider.Grant("r1")
		var down atomic.Bool
		down.Store(true)
		h.provider.Respond = func(int, url.Values) (*http.Response, error) {
			if down.Load() {
				return brokertest.Response(503, ""), nil
			}
			return nil, nil
		}
		h.mustImport("a1", "r1", issued(2*time.Hour))
		time.Sleep(time.Minute)
		clock.set(24 * time.Hour)
		time.Sleep(5 * time.Minute)
		if got := h.events.types(); got != "pending" {
			t.Errorf("got events %q, want pending only", got)
		}
		down.Store(false)
		time.Sleep(6 * time.Minute)
		if got := h.events.types(); got != "pending recovered" {
			t.Errorf("got events %q, want pending and recovered", got)
		}
	})
}

// retryAfter returns a 429 that asks to wait.
func retryAfter(seconds int) *http.Response {
	resp := brokertest.Response(429, "")
	resp.Header.Set("Retry-After", strconv.Itoa(seconds))
	return resp
}
