package broker_test

import (
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

func TestBackoffGivesUpAndRecovers(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.configure(func(cfg *record.Config) { cfg.RefreshIdle = -1 })
		h.provider.Grant("r1")
		var down atomic.Bool
		down.Store(true)
		h.provider.Respond = func(int, url.Values) (*http.Response, error) {
			if down.Load() {
				return brokertest.Response(503, "down"), nil
			}
			return nil, nil
		}
		h.mustImport("a1", "r1", issued(2*time.Hour))
		time.Sleep(2 * time.Minute)
		if got := h.events.types(); got != "pending" {
			t.Errorf("after the first failures: got events %q, want pending", got)
		}
		time.Sleep(time.Hour)
		if got := h.events.types(); got != "pending failed" {
			t.Errorf("after giving up: got events %q, want pending failed", got)
		}
		attempts := len(h.provider.Requests())
		if attempts < 8 || attempts > 25 { // the waits have jitter
			t.Errorf("got %d attempts in 15 minutes of backoff, want 8 to 25", attempts)
		}
		time.Sleep(24 * time.Hour)
		if got := len(h.provider.Requests()); got != attempts {
			t.Errorf("got %d attempts after giving up, want none unless asked", got-attempts)
		}
		down.Store(false)
		h.token(h.key)
		if got := h.events.types(); got != "pending failed recovered" {
			t.Errorf("got events %q, want pending failed recovered", got)
		}
	})
}

func TestRetryAfterIsHonoured(t *testing.T) {
	t.Parallel()
	for name, value := range map[string]func() string{
		"seconds": func() string { return "600" },
		"date":    func() string { return time.Now().Add(10 * time.Minute).UTC().Format(http.TimeFormat) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			virtually(t, func(t *testing.T, h *harness) {
				h.provider.Grant("r1")
				h.provider.Respond = func(n int, _ url.Values) (*http.Response, error) {
					if n > 1 {
						return nil, nil
					}
					resp := brokertest.Response(429, "slow down")
					resp.Header.Set("Retry-After", value())
					return resp, nil
				}
				h.mustImport("a1", "r1", issued(2*time.Hour))
				synctest.Wait()
				time.Sleep(9*time.Minute + 58*time.Second)
				if got := len(h.provider.Requests()); got != 1 {
					t.Errorf("got %d attempts before the time, want 1", got)
				}
				time.Sleep(5 * time.Second)
				if got := len(h.provider.Requests()); got != 2 {
					t.Errorf("got %d attempts after it, want 2", got)
				}
			})
		})
	}
}

func TestFarRetryDoesNotKeepANearerOneWaiting(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.provider.Grant("r2")
		h.provider.Respond = func(n int, _ url.Values) (*http.Response, error) {
			if n > 2 {
				return nil, nil
			}
			resp := brokertest.Response(503, "")
			if n == 1 {
				resp.Header.Set("Retry-After", "3600")
			}
			return resp, nil
		}
		h.mustImport("a1", "r1", issued(2*time.Hour))
		synctest.Wait()
		h.mustImport("a2", "r2", issued(90*time.Minute))
		time.Sleep(10 * time.Second)
		if got := fmt.Sprint(h.redeemed()); got != "[r1 r2 r2]" {
			t.Errorf("redeemed %s after ten seconds, want [r1 r2 r2]", got)
		}
	})
}

func TestAmbiguousOutcomeFollowsTheRotation(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		rotation connector.Rotation
		valid    bool // the access token, by the clock for another ten minutes
		rejected bool // by downstream
		min, max time.Duration
	}{
		"always, valid":    {connector.Rotation{Kind: connector.RotationAlways}, true, false, 10 * time.Minute, 11 * time.Minute},
		"always, rejected": {connector.Rotation{Kind: connector.RotationAlways}, true, true, 500 * time.Millisecond, time.Second},
		"always, expired":  {connector.Rotation{Kind: connector.RotationAlways}, false, false, 500 * time.Millisecond, time.Second},
		"never":            {connector.Rotation{Kind: connector.RotationNever}, true, false, 500 * time.Millisecond, time.Second},
		"window":           {connector.Rotation{Kind: connector.RotationWindow, Window: time.Minute}, true, false, 0, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			virtually(t, func(t *testing.T, h *harness) {
				h.configureConnector(acme, func(c *record.Connector) { c.Rotation = test.rotation })
				h.provider.Grant("r1")
				var second atomic.Int64
				h.provider.Respond = func(n int, _ url.Values) (*http.Response, error) {
					if n == 1 {
						return brokertest.Response(500, ""), nil
					}
					second.Store(time.Now().UnixNano())
					return nil, nil
				}
				lifetime := `"expires_at":"` + time.Now().Add(10*time.Minute).Format(time.RFC3339) + `"`
				if !test.valid {
					lifetime = issued(2 * time.Hour)
				}
				begun := time.Now()
				h.mustImport("a1", "r1", lifetime)
				switch { // nothing else causes a refresh of a valid token
				case test.valid && !test.rejected:
					if _, err := h.Validate(t.Context(), h.key); err != nil {
						t.Fatal(err)
					}
				case test.rejected:
					auth, err := h.Authorize(request(t, "https://api.acme.test/"), h.key)
					if err != nil {
						t.Fatal(err)
					}
					auth.Renew(t.Context())
				}
				synctest.Wait()
				if got := h.events.types(); got != "pending" {
					t.Errorf("got events %q, want pending: an ambiguous outcome is never silent", got)
				}
				if rec := h.wantRecord(h.key, recordWant{ambiguous: 1}); rec.Cycle.Class != record.ClassAmbiguous {
					t.Errorf("got class %s, want ambiguous", rec.Cycle.Class)
				}
				time.Sleep(20 * time.Minute)
				if waited := time.Unix(0, second.Load()).Sub(begun); waited < test.min || waited > test.max {
					t.Errorf("sent again after %v, want %v to %v", waited, test.min, test.max)
				}
				if got := h.events.types(); got != "pending recovered" {
					t.Errorf("got events %q, want pending recovered", got)
				}
			})
		})
	}
}
