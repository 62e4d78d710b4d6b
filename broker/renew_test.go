package broker_test

import (
	"errors"
	"net/http"
	"net/url"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker"
	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

func TestRejectedTokenIsRenewedOnce(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.hasLongToken()
		auth := h.mustAuthorize(t)
		if !auth.Renew(t.Context()) {
			t.Error("not renewed")
		}
		if !auth.Renew(t.Context()) { // a second request with the old token
			t.Error("the newer token was not seen")
		}
		if got := len(h.provider.Requests()); got != 1 {
			t.Errorf("got %d token requests, want 1", got)
		}
	})
}

// A provider may end the old token when it makes the new one, which takes a while to arrive and to
// be saved. Each call that is refused in between gets the new one, however often that happens.
func TestTokenRejectedDuringARefreshIsRenewed(t *testing.T) {
	t.Parallel()
	for name, other := range map[string]int{"in the same process": 0, "in another replica": 1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				both := replicas(t, 2)
				h, caller := both[0], both[other]
				h.provider.Lifetime = 6 * time.Second
				h.provider.Deliver = func(int) error { time.Sleep(700 * time.Millisecond); return nil }
				h.provider.Grant("r1")
				h.mustImport("a1", "r1", `"expires_in":6,"issued_at":"`+time.Now().UTC().Format(time.RFC3339)+`"`)
				for n := range 4 {
					auth := caller.mustAuthorize(t)
					for len(h.provider.Requests()) == n {
						time.Sleep(10 * time.Millisecond)
						h.token(h.key) // begins the refresh when it is due
						synctest.Wait()
					}
					if !auth.Renew(t.Context()) {
						t.Errorf("the token was not renewed during refresh %d", n+1)
					}
					caller.mustAuthorize(t).HandleResponse(brokertest.Response(200, "ok"))
				}
				if got := len(h.provider.Requests()); got != 4 {
					t.Errorf("got %d token requests, want 4", got)
				}
			})
		})
	}
}

// A refresh that began before the standby is completed, so a call that it has made fail gets its token.
func TestTokenRejectedDuringTheLastRefreshBeforeStandbyIsRenewed(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.provider.Grant("r1")
		h.provider.Deliver = func(int) error { time.Sleep(time.Second); return nil }
		h.mustImport("a1", "r1", issued(58*time.Minute))
		auth := h.mustAuthorize(t)
		h.token(h.key) // begins the refresh
		synctest.Wait()
		go func() {
			if done, err := h.EnterStandby(t.Context(), "app", broker.Selection{}); err != nil || done.Changed != 1 {
				t.Errorf("EnterStandby = %+v, %v; want 1 changed", done, err)
			}
		}()
		time.Sleep(100 * time.Millisecond)
		if !auth.Renew(t.Context()) {
			t.Error("the token was not renewed")
		}
		time.Sleep(time.Minute) // the switch ends
		if got := len(h.provider.Requests()); got != 1 {
			t.Errorf("got %d token requests, want 1", got)
		}
	})
}

// hasLongToken imports a connection with a token that is valid for a month, and whose
// refreshed tokens live even longer.
func (h *harness) hasLongToken() {
	h.t.Helper()
	h.provider.Lifetime = 1000 * time.Hour
	h.provider.Grant("r1")
	h.mustImport("a1", "r1", `"issued_at":"2000-01-01T00:00:00Z","expires_at":"2000-02-01T00:00:00Z"`)
}

// mustAuthorize authorises a request to acme's API.
func (h *harness) mustAuthorize(t *testing.T) *broker.Authorization {
	t.Helper()
	auth, err := h.Authorize(request(t, "https://api.acme.test/"), h.key)
	if err != nil {
		t.Fatal(err)
	}
	return auth
}

func TestRenewalsAreFewWhileDownstreamRejectsEveryToken(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.hasLongToken()
		for range 200 {
			h.mustAuthorize(t).Renew(t.Context())
			time.Sleep(time.Minute)
		}
		if got := len(h.provider.Requests()); got > 15 {
			t.Errorf("got %d token requests in three hours of 401s, want 15 at most", got)
		}
	})
}

func TestCooldownOfRenewalsIsShortAgainAfterASuccess(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.hasLongToken()
		for range 200 {
			h.mustAuthorize(t).Renew(t.Context())
			time.Sleep(time.Minute)
		}
		time.Sleep(time.Hour)
		before := len(h.provider.Requests())
		if !h.mustAuthorize(t).Renew(t.Context()) {
			t.Error("not renewed after the cooldown")
		}
		h.mustAuthorize(t).HandleResponse(brokertest.Response(200, "ok"))
		time.Sleep(time.Hour)
		h.mustAuthorize(t).Renew(t.Context())
		time.Sleep(11 * time.Second)
		h.mustAuthorize(t).Renew(t.Context())
		if got := len(h.provider.Requests()) - before; got != 3 {
			t.Errorf("got %d more token requests, want 3", got)
		}
	})
}

// A flood of 401s to requests that cannot be sent again is dealt with once. The test counts
// goroutines, and so does not run in parallel.
func TestRejectionsInAFloodAreDealtWithOnce(t *testing.T) {
	virtually(t, func(t *testing.T, h *harness) {
		h.provider.Grant("r1")
		h.provider.Deliver = func(int) error { time.Sleep(10 * time.Second); return nil }
		h.mustImport("a1", "r1", issued(0))
		auth, err := h.Authorize(request(t, "https://api.acme.test/"), h.key)
		if err != nil {
			t.Fatal(err)
		}
		before := runtime.NumGoroutine()
		for range 1000 {
			auth.RenewInBackground()
		}
		synctest.Wait()
		// One or two are the broker's. The runtime and the testing package start some, too.
		if got := runtime.NumGoroutine() - before; got > 20 {
			t.Errorf("%d goroutines wait for one refresh, want one or two", got)
		}
		time.Sleep(time.Minute)
		if tok, err := h.Source(h.key).Token(t.Context()); err != nil || tok.Generation != 2 {
			t.Errorf("got generation %d, %v; want 2", tok.Generation, err)
		}
		auth.RenewInBackground() // possible again
		synctest.Wait()
		if got := len(h.provider.Requests()); got != 1 {
			t.Errorf("got %d token requests, want 1", got)
		}
	})
}

func TestRefusedTokenWithoutRefreshTokenNeedsAuth(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		key := h.at(long)
		h.mustImportBody(key, `{"credentials":{"access_token":"a1"}}`)
		for range 3 {
			auth, err := h.Authorize(request(t, "https://api.acme.test/"), key)
			if err != nil {
				t.Fatal(err)
			}
			auth.HandleResponse(brokertest.Response(http.StatusForbidden, ""))
		}
		auth, err := h.Authorize(request(t, "https://api.acme.test/"), key)
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			auth.HandleResponse(brokertest.Response(http.StatusUnauthorized, ""))
		}
		synctest.Wait()
		_, err = h.Authorize(request(t, "https://api.acme.test/"), key)
		wantParked(t, err)
		h.wantView(key, record.StateInvalid, record.HealthNeedsAuth)
		if got := h.events.types(); got != "failed" {
			t.Errorf("got events %q, want one failed", got)
		}
		h.mustImportBody(key, `{"credentials":{"access_token":"a2"}}`)
		if got := h.token(key); got != "a2" {
			t.Errorf("after another import: got %q, want a2", got)
		}
	})
}

// A token that downstream has refused is no valid token: a refresh whose outcome is unknown is
// repeated after the backoff, not when the token expires by the clock.
func TestRejectedTokenIsReplacedAfterAnAmbiguousOutcome(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.hasLongToken()
		h.provider.Respond = func(n int, _ url.Values) (*http.Response, error) {
			if n == 1 {
				return brokertest.Response(500, ""), nil // nothing was spent
			}
			return nil, nil
		}
		auth := h.mustAuthorize(t)
		if auth.Renew(t.Context()) {
			t.Fatal("the first refresh succeeded")
		}
		if _, err := h.Validate(t.Context(), h.key); err == nil {
			t.Error("a connection whose token downstream refuses is valid")
		}
		time.Sleep(10 * time.Second) // nothing else asks for a refresh
		if got := h.token(h.key); got == "a1" {
			t.Error("the rejected token is still served")
		}
		h.wantRequests("after the backoff", 2)
		if got := h.events.types(); got != "pending recovered" {
			t.Errorf("got events %q, want pending and recovered", got)
		}
	})
}

// Nor does it matter whether downstream refuses the token before or after the outcome.
func TestTokenRejectedAfterAnAmbiguousOutcomeIsReplaced(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.hasLongToken()
		h.provider.Respond = func(n int, _ url.Values) (*http.Response, error) {
			if n == 1 {
				return brokertest.Response(500, ""), nil
			}
			return nil, nil
		}
		if _, err := h.Validate(t.Context(), h.key); err != nil {
			t.Fatal(err) // the token works
		}
		time.Sleep(time.Hour)
		h.wantRequests("while the token works", 1)
		if !h.mustAuthorize(t).Renew(t.Context()) {
			t.Error("the rejected token was not replaced")
		}
		h.wantRequests("after the rejection", 2)
	})
}

// While downstream refuses the token, validating tries whenever its interval allows, whatever
// the backoff, and says that there is no valid token.
func TestValidateTriesARejectedTokenWheneverItsIntervalAllows(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.hasLongToken()
		var mended atomic.Bool
		h.provider.Respond = func(int, url.Values) (*http.Response, error) {
			if mended.Load() {
				return nil, nil
			}
			return brokertest.Response(500, ""), nil
		}
		h.mustAuthorize(t).Renew(t.Context())
		time.Sleep(12 * time.Minute) // the backoff is minutes now
		awaitInterval := func() {    // after a retry in the background, too
			for before := -1; before != len(h.provider.Requests()); {
				before = len(h.provider.Requests())
				time.Sleep(11 * time.Second)
			}
		}
		for range 3 {
			awaitInterval()
			before := len(h.provider.Requests())
			var failed *record.TokenError
			if _, err := h.Validate(t.Context(), h.key); !errors.As(err, &failed) || failed.Class != record.ClassAmbiguous {
				t.Errorf("got %v, want the ambiguous outcome", err)
			}
			if got := len(h.provider.Requests()); got != before+1 {
				t.Errorf("got %d token requests, want one", got-before)
			}
		}
		awaitInterval()
		mended.Store(true)
		view, err := h.Validate(t.Context(), h.key)
		if err != nil || view.Health != record.HealthOK {
			t.Errorf("got %v (%v), want a connection in good health", view, err)
		}
	})
}
