package broker_test

import (
	"net/http"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

func TestRefusedFetchCostsOneCallUntilTheSettingsChange(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.provider.Passwords = map[string]string{"ann": "right-" + brokertest.APIKeyCanary}
		key := h.connectOwner("wrong")
		for range 5 {
			_, err := h.Source(key).Token(t.Context())
			wantParked(t, err)
			time.Sleep(time.Hour)
		}
		if got := h.grants(); got != "password" {
			t.Errorf("got token requests %q, want one", got)
		}
		h.wantView(key, record.StateInvalid, record.HealthNeedsAuth)
		if got := h.events.types(); got != "failed" {
			t.Errorf("got events %q, want one failure", got)
		}
		h.mustImportBody(key, `{"settings":{"password":"right-`+brokertest.APIKeyCanary+`"}}`)
		h.token(key)
	})
}

func TestPasswordGrantUsesRefreshTokensWhileTheyWork(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.connect(connector.Definition{ID: owner, GrantType: connector.Password})
		h.provider.Passwords = map[string]string{"ann": "secret"}
		key := h.at(owner)
		_, _, err := h.importBody(key, `{"settings":{"username":"ann"}}`)
		wantInvalid(t, err, "settings.password")
		view, _, err := h.importBody(key, `{"settings":{"username":"ann","password":"secret"}}`)
		if err != nil || view.Settings["password"] != record.Mask {
			t.Fatalf("got %v, %v, want the password masked", view, err)
		}
		tokens := map[string]bool{h.token(key): true}
		for range 2 {
			time.Sleep(2 * time.Hour)
			tokens[h.token(key)] = true
		}
		if got, want := h.grants(), "password refresh_token refresh_token"; got != want {
			t.Errorf("got token requests %q, want %q", got, want)
		}
		if len(tokens) != 3 {
			t.Errorf("got %d tokens, want 3", len(tokens))
		}
		if form := h.provider.Requests()[0]; form.Get("username") != "ann" || form.Get("password") != "secret" {
			t.Errorf("got %v, want the username and the password of the settings", form)
		}
	})
}

// refuseRefreshTokens makes the provider refuse refresh tokens, but not passwords.
func (h *harness) refuseRefreshTokens() {
	h.provider.Respond = func(n int, form url.Values) (*http.Response, error) {
		if form.Get("grant_type") != "refresh_token" {
			return nil, nil
		}
		return refuse(n, form)
	}
}

// The password brings another grant, at once, in the same flight.
func TestRefusedRefreshTokenFallsBackToThePassword(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.provider.Passwords = map[string]string{"ann": "secret"}
		key := h.connectOwner("secret")
		h.token(key)
		spent := h.record(key).Credentials.RefreshToken
		h.refuseRefreshTokens()
		time.Sleep(2 * time.Hour)
		h.token(key)
		if got, want := h.grants(), "password refresh_token password"; got != want {
			t.Errorf("got token requests %q, want %q", got, want)
		}
		rec := h.wantRecord(key, recordWant{})
		if rec.Credentials.RefreshToken.Equal(spent) {
			t.Error("the refused refresh token is still stored")
		}
		if rec.Replaced[len(rec.Replaced)-1] != spent.Hash() {
			t.Error("the refused refresh token is not remembered as replaced")
		}
		if rec.Cycle.Phase != record.PhaseHealthy {
			t.Errorf("got phase %s, want healthy", rec.Cycle.Phase)
		}
		if got := h.events.types(); got != "" {
			t.Errorf("got events %q, want none: nothing has failed", got)
		}
	})
}

func TestConnectionIsParkedWhenItsPasswordIsRefusedToo(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.provider.Passwords = map[string]string{"ann": "secret"}
		key := h.connectOwner("secret")
		h.token(key)
		h.refuseRefreshTokens()
		h.provider.Passwords["ann"] = "another"
		time.Sleep(2 * time.Hour)
		for range 3 {
			_, err := h.Source(key).Token(t.Context())
			wantParked(t, err)
		}
		if got, want := h.grants(), "password refresh_token password"; got != want {
			t.Errorf("got token requests %q, want %q", got, want)
		}
	})
}

func TestRefusedPasswordLeavesAValidTokenInUse(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.provider.Passwords, h.provider.KeepRefresh = map[string]string{"ann": "secret"}, true // issues no refresh tokens
		key := h.connectOwner("secret")
		first := h.token(key)
		h.provider.Passwords["ann"] = "another"
		time.Sleep(58 * time.Minute) // due for a refresh ahead of its expiry
		h.token(key)
		synctest.Wait()
		if got := h.token(key); got != first {
			t.Errorf("got %s, want the valid token", got)
		}
		if got := h.grants(); got != "password password" {
			t.Errorf("got token requests %q, want two for a password", got)
		}
	})
}
