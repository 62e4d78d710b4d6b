package broker_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

func TestTokenIsRefreshedAheadOfItsExpiry(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.provider.Grant("r1")
		h.mustImport("a1", "r1", issued(0))
		time.Sleep(50 * time.Minute)
		if got := h.token(h.key); got != "a1" {
			t.Errorf("ten minutes before the expiry: got %q, want a1", got)
		}
		time.Sleep(6 * time.Minute)
		begun := time.Now()
		h.provider.Deliver = func(int) error { time.Sleep(3 * time.Second); return nil }
		if got := h.token(h.key); got != "a1" {
			t.Errorf("four minutes before: got %q, want a1", got)
		}
		if waited := time.Since(begun); waited != 0 {
			t.Errorf("four minutes before: waited %v for the refresh", waited)
		}
		time.Sleep(4 * time.Second)
		if got := h.token(h.key); !strings.HasPrefix(got, "access-1-") {
			t.Errorf("after the refresh: got %q, want the refreshed token", got)
		}
	})
}

// The margin before the expiry depends on the token's lifetime.
func TestRefreshAheadGoesByTheLifetime(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		lifetime time.Duration // 0: not said, an hour is assumed
		margin   time.Duration
	}{
		"a third of a very short life": {30 * time.Second, 10 * time.Second},
		"a minute of a short one":      {4 * time.Minute, time.Minute},
		"a fifth":                      {20 * time.Minute, 4 * time.Minute},
		"five minutes of a long one":   {10 * time.Hour, 5 * time.Minute},
		"unknown":                      {0, 5 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			virtually(t, func(t *testing.T, h *harness) {
				h.provider.Lifetime = test.lifetime
				h.provider.Grant("r1")
				h.mustImport("a0", "r1", issued(2*time.Hour))
				synctest.Wait() // the token is the provider's, issued now
				begun, lifetime := time.Now(), test.lifetime
				if lifetime == 0 {
					lifetime = time.Hour
				}
				for len(h.provider.Requests()) == 1 && time.Since(begun) < lifetime {
					h.token(h.key)
					synctest.Wait()
					time.Sleep(100 * time.Millisecond)
				}
				ahead := lifetime - time.Since(begun)
				if least := test.margin - test.margin/10 - 200*time.Millisecond; ahead < least || ahead > test.margin {
					t.Errorf("refreshed %v ahead, want %v, less up to a tenth", ahead, test.margin)
				}
			})
		})
	}
}

func TestValidTokenIsServedWhateverHappensToItsRefresh(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.provider.Respond = func(int, url.Values) (*http.Response, error) { return brokertest.Response(503, "down"), nil }
		h.mustImport("a1", "r1", issued(0))
		time.Sleep(56 * time.Minute)
		for range 200 { // until the expiry
			if got := h.token(h.key); got != "a1" {
				t.Fatalf("got %q, want a1", got)
			}
			time.Sleep(time.Second)
		}
		time.Sleep(time.Minute)
		_, err := h.Source(h.key).Token(t.Context())
		if failed := wantTokenError(t, err, record.ClassTransient); failed.RetryAt.IsZero() {
			t.Errorf("got %+v, want a time for the next attempt", failed)
		}
	})
}

func TestLongLivedTokenIsUsedUntilItExpires(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		key := h.at(long)
		if _, _, err := h.importBody(key, `{"credentials":{"access_token":"a1",`+issued(0)+`}}`); err != nil {
			t.Fatal(err)
		}
		time.Sleep(59 * time.Minute)
		if got := h.token(key); got != "a1" {
			t.Errorf("got %q, want a1", got)
		}
		time.Sleep(2 * time.Minute)
		for range 3 {
			_, err := h.Source(key).Token(t.Context())
			wantParked(t, err)
		}
		h.wantView(key, record.StateInvalid, record.HealthNeedsAuth)
		if got := h.events.types(); got != "failed" {
			t.Errorf("got events %q, want one failed", got)
		}
		if got := len(h.provider.Requests()); got != 0 {
			t.Errorf("got %d token requests, want none", got)
		}
	})
}
