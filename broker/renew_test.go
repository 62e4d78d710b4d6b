package broker_test

import (
	"net/http"
	"runtime"
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
		if got := runtime.NumGoroutine() - before; got > 2 {
			t.Errorf("%d goroutines wait for one refresh, want 2 at most", got)
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
