package broker_test

import (
	"errors"
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
		h.connect(connector.Definition{ID: owner, GrantType: connector.Password})
		h.provider.Passwords = map[string]string{"ann": "right-" + brokertest.APIKeyCanary}
		key := h.at(owner)
		h.mustImportBody(key, `{"settings":{"username":"ann","password":"wrong"}}`)
		for range 5 {
			var failed *record.TokenError
			if _, err := h.Source(key).Token(t.Context()); !errors.As(err, &failed) || failed.Class != record.ClassPermanent || !failed.Parked {
				t.Errorf("got %v, want a permanent failure", err)
			}
			time.Sleep(time.Hour)
		}
		if got := h.grants(); got != "password" {
			t.Errorf("got token requests %q, want one", got)
		}
		if view, err := h.Connection(t.Context(), key); err != nil || view.State != record.StateInvalid || view.Health != record.HealthNeedsAuth {
			t.Errorf("got %v, %v, want invalid, needs_auth", view, err)
		}
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
		var input *record.InputError
		if _, _, err := h.importBody(key, `{"settings":{"username":"ann"}}`); !errors.As(err, &input) || input.Field != "settings.password" {
			t.Errorf("got %v, want an InputError for settings.password", err)
		}
		view, _, err := h.importBody(key, `{"settings":{"username":"ann","password":"secret"}}`)
		if err != nil || view.Settings["password"] != record.Mask {
			t.Fatalf("got %v, %v, want the password masked", view, err)
		}
		tokens := map[string]bool{h.token(key): true}
		for range 2 {
			time.Sleep(2 * time.Hour)
			tokens[h.token(key)] = true
		}
		if got, want := h.grants(), "password refresh_token refresh_token"; got != want || len(tokens) != 3 {
			t.Errorf("got token requests %q and %d tokens, want %q", got, len(tokens), want)
		}
		if form := h.provider.Requests()[0]; form.Get("username") != "ann" || form.Get("password") != "secret" {
			t.Errorf("got %v", form)
		}
	})
}

// TestRefusedRefreshTokenFallsBackToThePassword revokes the grant: the password brings
// another one, at once, in the same flight.
func TestRefusedRefreshTokenFallsBackToThePassword(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.connect(connector.Definition{ID: owner, GrantType: connector.Password})
		h.provider.Passwords = map[string]string{"ann": "secret"}
		key := h.at(owner)
		h.mustImportBody(key, `{"settings":{"username":"ann","password":"secret"}}`)
		h.token(key)
		spent := h.record(key).Credentials.RefreshToken
		h.provider.Respond = func(_ int, form url.Values) (*http.Response, error) {
			if form.Get("grant_type") != "refresh_token" {
				return nil, nil
			}
			return brokertest.Response(http.StatusBadRequest, map[string]any{"error": "invalid_grant"}), nil
		}
		time.Sleep(2 * time.Hour)
		h.token(key)
		if got, want := h.grants(), "password refresh_token password"; got != want {
			t.Errorf("got token requests %q, want %q", got, want)
		}
		rec := h.record(key)
		if rec.Credentials.RefreshToken.Equal(spent) || rec.Lease != nil || rec.Cycle.Phase != record.PhaseHealthy || rec.Replaced[len(rec.Replaced)-1] != spent.Hash() {
			t.Errorf("the refused refresh token is there still, or not remembered: %+v", rec.Cycle)
		}
		if got := h.events.types(); got != "" {
			t.Errorf("got events %q, want none: nothing has failed", got)
		}

		// And when the password is refused as well, that is the end of it.
		h.provider.Passwords["ann"] = "another"
		time.Sleep(2 * time.Hour)
		for range 3 {
			var failed *record.TokenError
			if _, err := h.Source(key).Token(t.Context()); !errors.As(err, &failed) || !failed.Parked {
				t.Errorf("got %v, want a parked connection", err)
			}
		}
		if got, want := h.grants(), "password refresh_token password refresh_token password"; got != want {
			t.Errorf("got token requests %q, want %q", got, want)
		}
	})
}

// TestRefusedPasswordLeavesAValidTokenInUse: what is refused is the next token.
func TestRefusedPasswordLeavesAValidTokenInUse(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.connect(connector.Definition{ID: owner, GrantType: connector.Password})
		h.provider.Passwords, h.provider.KeepRefresh = map[string]string{"ann": "secret"}, true // no refresh tokens at all
		key := h.at(owner)
		h.mustImportBody(key, `{"settings":{"username":"ann","password":"secret"}}`)
		first := h.token(key)
		h.provider.Passwords["ann"] = "another"
		time.Sleep(58 * time.Minute) // due for a refresh ahead of its expiry
		h.token(key)
		synctest.Wait()
		if got := h.token(key); got != first {
			t.Errorf("got %s, want the valid token", got)
		}
		if got := h.grants(); got != "password password" {
			t.Errorf("got token requests %q", got)
		}
	})
}
