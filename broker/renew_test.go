package broker_test

import (
	"net/http"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

func TestRejectedTokenIsRenewedOnce(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.provider.Lifetime = 1000 * time.Hour
		h.provider.Grant("r1")
		h.mustImport("a1", "r1", `"issued_at":"2000-01-01T00:00:00Z","expires_at":"2000-02-01T00:00:00Z"`)
		url := "https://api.acme.test/"
		auth, err := h.Authorize(request(t, url), h.key)
		if err != nil {
			t.Fatal(err)
		}
		if !auth.Renew(t.Context()) {
			t.Error("not renewed")
		}
		if !auth.Renew(t.Context()) { // a second request with the old token
			t.Error("the newer token was not seen")
		}
		if got := len(h.provider.Requests()); got != 1 {
			t.Errorf("got %d token requests, want 1", got)
		}

		// Downstream goes on answering 401, whatever the token.
		for range 200 {
			auth, err := h.Authorize(request(t, url), h.key)
			if err != nil {
				t.Fatal(err)
			}
			auth.Renew(t.Context())
			time.Sleep(time.Minute)
		}
		if got := len(h.provider.Requests()); got > 15 {
			t.Errorf("got %d token requests in three hours of 401s, want 15 at most", got)
		}

		// After a success the cooldown starts from the beginning.
		time.Sleep(time.Hour)
		auth, err = h.Authorize(request(t, url), h.key)
		if err != nil {
			t.Fatal(err)
		}
		before := len(h.provider.Requests())
		if !auth.Renew(t.Context()) {
			t.Error("not renewed after the cooldown")
		}
		auth, err = h.Authorize(request(t, url), h.key)
		if err != nil {
			t.Fatal(err)
		}
		auth.HandleResponse(brokertest.Response(200, "ok"))
		time.Sleep(time.Hour)
		auth, _ = h.Authorize(request(t, url), h.key)
		auth.Renew(t.Context())
		time.Sleep(11 * time.Second)
		auth, _ = h.Authorize(request(t, url), h.key)
		auth.Renew(t.Context())
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
			t.Errorf("%d goroutines wait for one refresh", got)
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
