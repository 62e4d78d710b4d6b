package broker_test

import (
	"errors"
	"net/http"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker"
	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// hasDeadGrant imports a connection whose token is valid by the clock and whose refresh token
// is refused, and parks it.
func (h *harness) hasDeadGrant(t *testing.T) *broker.Authorization {
	t.Helper()
	h.mustImport("a1", "gone", `"issued_at":"2000-01-01T00:00:00Z","expires_at":"2000-02-01T00:00:00Z"`)
	auth := h.mustAuthorize(t)
	if err := auth.Dead(t.Context()); err != nil {
		t.Errorf("got %v before the connection is parked, want nothing", err)
	}
	if auth.Renew(t.Context()) {
		t.Error("renewed with a dead grant")
	}
	return auth
}

func TestWhatIsLeftOfADeadGrantIsNotSentOnceItIsRejected(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		auth := h.hasDeadGrant(t)
		h.mustAuthorize(t) // the token may still be good
		for range 2 {
			wantParked(t, auth.Dead(t.Context()))
			_, err := h.Authorize(request(t, "https://api.acme.test/"), h.key)
			wantParked(t, err)
		}
		h.stop()
		h.start()
		_, err := h.Authorize(request(t, "https://api.acme.test/"), h.key)
		wantParked(t, err)

		h.provider.Grant("r2")
		h.mustImport("a2", "r2", issued(0))
		h.mustAuthorize(t)
	})
}

func TestTunnelsEndWhenCallsDo(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		auth := h.hasDeadGrant(t)
		admission, err := h.Admit(t.Context(), h.key)
		if err != nil {
			t.Fatal(err)
		}
		defer admission.Release()
		if err := admission.Ended(t.Context()); err != nil {
			t.Errorf("got %v while the token is valid, want nothing", err)
		}
		wantParked(t, auth.Dead(t.Context()))
		wantParked(t, admission.Ended(t.Context()))

		h.provider.Grant("r2")
		h.mustImport("a2", "r2", issued(0))
		if err := admission.Ended(t.Context()); err != nil {
			t.Errorf("got %v with a new grant, want nothing", err)
		}
		for _, enabled := range []bool{false, true} {
			want := map[bool]error{false: record.ErrConnectionDisabled}[enabled]
			if _, err := h.Update(t.Context(), h.key, &record.Update{Enabled: &enabled}); err != nil {
				t.Fatal(err)
			}
			if err := admission.Ended(t.Context()); !errors.Is(err, want) {
				t.Errorf("enabled %v: got %v, want %v", enabled, err, want)
			}
		}
		if err := h.Delete(t.Context(), h.key); err != nil {
			t.Fatal(err)
		}
		if err := admission.Ended(t.Context()); !errors.Is(err, record.ErrConnectionNotFound) {
			t.Errorf("got %v after the deletion", err)
		}
	})
}

func TestRejectedTokenWithoutRefreshTokenIsTheLastOne(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		key := h.at(long)
		h.mustImportBody(key, `{"credentials":{"access_token":"a1"}}`)
		for range 2 { // the first has recorded the 401, too
			auth, err := h.Authorize(request(t, "https://api.acme.test/"), key)
			if err != nil {
				t.Fatal(err)
			}
			auth.HandleResponse(brokertest.Response(http.StatusUnauthorized, ""))
			if failed := wantParked(t, auth.Dead(t.Context())); failed.Code != record.CodeAccessTokenRejected {
				t.Errorf("got code %q", failed.Code)
			}
			_, err = h.Authorize(request(t, "https://api.acme.test/"), key)
			wantParked(t, err)
			h.mustImportBody(key, `{"credentials":{"access_token":"a1"}}`) // one more try
		}
	})
}
