package broker_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// grants returns the grant types of the token requests so far.
func (h *harness) grants() string {
	var types []string
	for _, form := range h.provider.Requests() {
		types = append(types, form.Get("grant_type"))
	}
	return strings.Join(types, " ")
}

func TestClientCredentialsNeedNoImportedToken(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.connect(connector.Definition{
			ID: cc, GrantType: connector.ClientCredentials,
			TokenParams: map[string]string{"scope": "read write", "audience": "https://{tenant}.acme.test"},
			Settings:    []connector.Setting{{Name: "tenant", Required: true}},
		})
		key := h.at(cc)
		var input *record.InputError
		if _, _, err := h.importBody(key, `{}`); !errors.As(err, &input) || input.Field != "settings.tenant" {
			t.Errorf("got %v, want an InputError for settings.tenant", err)
		}
		view, outcome, err := h.importBody(key, `{"settings":{"tenant":"one"}}`)
		if err != nil || outcome != record.ImportStored || view.State != record.StateCallable || view.Health != record.HealthOK {
			t.Fatalf("got %v, %s, %v, want a callable connection", view, outcome, err)
		}
		if outcome := h.mustImportBody(key, `{"settings":{"tenant":"one"}}`); outcome != record.ImportKept {
			t.Errorf("the second import: got %s, want kept", outcome)
		}
		if got := h.grants(); got != "" {
			t.Errorf("an import fetched a token: %s", got)
		}
		first := h.token(key)
		if again := h.token(key); again != first {
			t.Errorf("got another token at once: %s", again)
		}
		time.Sleep(2 * time.Hour)
		if later := h.token(key); later == first {
			t.Error("an expired token was served")
		}
		want := url.Values{"grant_type": {"client_credentials"}, "scope": {"read write"}, "audience": {"https://one.acme.test"}}
		for _, got := range h.provider.Requests() {
			if got.Encode() != want.Encode() {
				t.Errorf("got request %s, want %s", got.Encode(), want.Encode())
			}
		}
		if got := len(h.provider.Requests()); got != 2 {
			t.Errorf("got %d token requests, want 2", got)
		}
	})
}

func TestTokenOfAnotherIdentityIsNotUsedAnyMore(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.connectTenants()
		key := h.at(cc)
		h.mustImportBody(key, `{"settings":{"tenant":"one"}}`)
		first := h.token(key)
		if outcome := h.mustImportBody(key, `{"settings":{"color":"red"}}`); outcome != record.ImportKept || h.token(key) != first {
			t.Errorf("a setting that has no part in token requests: %s, or the token is gone", outcome)
		}
		if outcome := h.mustImportBody(key, `{"settings":{"tenant":"two"}}`); outcome != record.ImportStored {
			t.Errorf("got %s, want stored", outcome)
		}
		if second := h.token(key); second == first {
			t.Error("a token for the tenant one is served to the tenant two")
		}
	})
}

// TestAnswerForAnotherIdentityIsDropped changes the settings while a token for those
// before is being fetched.
func TestAnswerForAnotherIdentityIsDropped(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.connectTenants()
		key := h.at(cc)
		h.mustImportBody(key, `{"settings":{"tenant":"one"}}`)
		h.provider.Respond = func(n int, form url.Values) (*http.Response, error) {
			if n == 1 {
				time.Sleep(10 * time.Second)
			}
			return brokertest.Response(http.StatusOK, map[string]any{"access_token": "for-" + form.Get("audience"), "expires_in": 3600}), nil
		}
		got := make(chan string)
		go func() { got <- h.token(key) }()
		time.Sleep(time.Second)
		h.mustImportBody(key, `{"settings":{"tenant":"two"}}`)
		if token := <-got; token != "for-two" {
			t.Errorf("the waiting call got %s, want the token of the tenant two", token)
		}
		if rec := h.record(key); rec.Credentials.AccessToken.Reveal() != "for-two" || rec.Lease != nil {
			t.Errorf("stored is %s", rec.Credentials.AccessToken.Reveal())
		}
	})
}

func TestUnansweredFetchIsTriedAgainAtOnceSinceNothingIsSpent(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.provider.Respond = func(n int, _ url.Values) (*http.Response, error) {
			if n == 2 {
				return brokertest.Response(http.StatusInternalServerError, "broken"), nil
			}
			return nil, nil
		}
		key := h.at(cc)
		h.mustImportBody(key, `{}`)
		h.token(key)
		time.Sleep(56 * time.Minute) // refreshed ahead, which fails
		h.token(key)
		time.Sleep(30 * time.Second) // long before the token expires
		if got := len(h.provider.Requests()); got != 3 {
			t.Errorf("got %d token requests, want the third soon after the second failed", got)
		}
	})
}

func TestConnectionHasAnOAuthClientOfItsOwn(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.connect(connector.Definition{
			ID: cc, GrantType: connector.ClientCredentials, AuthStyle: connector.AuthParams,
			Settings: []connector.Setting{{Name: "client_id"}, {Name: "client_secret", Sensitive: true}},
		})
		h.provider.Clients = map[string]string{"theirs": "their-" + brokertest.ClientSecretCanary, "public": ""}
		own, common, public, wrong := h.at(cc), h.at(cc), h.at(cc), h.at(cc)
		own.Consumer, common.Consumer, public.Consumer, wrong.Consumer = "own", "common", "public", "wrong"
		h.mustImportBody(own, `{"settings":{"client_id":"theirs","client_secret":"their-`+brokertest.ClientSecretCanary+`"}}`)
		h.mustImportBody(common, `{}`)
		h.mustImportBody(public, `{"settings":{"client_id":"public"}}`)
		h.mustImportBody(wrong, `{"settings":{"client_id":"theirs","client_secret":"wrong"}}`)
		var input *record.InputError
		if _, _, err := h.importBody(h.at(cc), `{"settings":{"client_secret":"alone"}}`); !errors.As(err, &input) || input.Field != "settings.client_id" {
			t.Errorf("got %v, want an InputError for settings.client_id", err)
		}
		// The one with the wrong secret is paused alone.
		for range 3 {
			var failed *record.TokenError
			if _, err := h.Source(wrong).Token(t.Context()); !errors.As(err, &failed) || failed.Class != record.ClassConfiguration {
				t.Errorf("got %v, want a configuration failure", err)
			}
		}
		h.token(own)
		h.token(common)
		h.token(public)
		var clients []string
		for _, form := range h.provider.Requests() {
			clients = append(clients, fmt.Sprint(form["client_id"], len(form["client_secret"])))
		}
		if got, want := strings.Join(clients, " "), "[theirs] 1 [theirs] 1 [client] 1 [public] 0"; got != want {
			t.Errorf("got clients %s, want %s", got, want)
		}
		// A corrected secret is tried at once.
		h.mustImportBody(wrong, `{"settings":{"client_secret":"their-`+brokertest.ClientSecretCanary+`"}}`)
		h.token(wrong)
	})
}

// TestOneConnectionsSettingsPauseNoOther: a tenant that does not exist is no fault of
// the client.
func TestOneConnectionsSettingsPauseNoOther(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.connectTenants()
		h.provider.Respond = func(_ int, form url.Values) (*http.Response, error) {
			if form.Get("audience") == "nobody" {
				return brokertest.Response(http.StatusNotFound, "no such tenant"), nil
			}
			return nil, nil
		}
		good, bad, other := h.at(cc), h.at(cc), h.at(cc)
		good.Consumer, bad.Consumer, other.Consumer = "good", "bad", "other"
		h.mustImportBody(bad, `{"settings":{"tenant":"nobody"}}`)
		h.mustImportBody(good, `{"settings":{"tenant":"one"}}`)
		h.mustImportBody(other, `{"settings":{"tenant":"two"}}`)
		for range 2 {
			if _, err := h.Source(bad).Token(t.Context()); err == nil {
				t.Error("a tenant that does not exist got a token")
			}
		}
		h.token(good)
		if got := len(h.provider.Requests()); got != 2 {
			t.Errorf("got %d token requests, want one for each connection", got)
		}
		// The client's secret is everybody's matter.
		h.provider.ClientSecret = "changed"
		for _, key := range []record.Key{other, other} {
			var failed *record.TokenError
			if _, err := h.Source(key).Token(t.Context()); !errors.As(err, &failed) || failed.Class != record.ClassConfiguration {
				t.Errorf("got %v, want a configuration failure", err)
			}
		}
		time.Sleep(2 * time.Hour)
		before := len(h.provider.Requests())
		for range 60 {
			_, _ = h.Source(good).Token(t.Context())
			_, _ = h.Source(other).Token(t.Context())
			time.Sleep(time.Minute)
		}
		if got := len(h.provider.Requests()) - before; got < 11 || got > 13 {
			t.Errorf("got %d token requests in an hour, want one probe of the connector every five minutes", got)
		}
	})
}

func TestClientCredentialsAreFetchedWhenTheTokenExpires(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		key := h.at(cc)
		if _, _, err := h.importBody(key, `{"credentials":{"access_token":"a1",`+issued(0)+`}}`); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Hour)
		if got := h.token(key); !strings.HasPrefix(got, "access-1-") {
			t.Errorf("got %q", got)
		}
		if got := h.provider.Requests()[0].Get("grant_type"); got != "client_credentials" {
			t.Errorf("got grant_type %q", got)
		}
	})
}

func TestObtainTokenFetchesOne(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		key := h.at(cc)
		if _, err := h.ObtainToken(t.Context(), key); !errors.Is(err, record.ErrConnectionNotFound) {
			t.Errorf("without a connection: got %v", err)
		}
		if _, _, err := h.importBody(key, `{"credentials": {"access_token": "a1", `+issued(0)+`}}`); err != nil {
			t.Fatal(err)
		}
		conn, err := h.ObtainToken(t.Context(), key)
		if err != nil || conn.State != record.StateCallable {
			t.Fatalf("got %+v, %v", conn, err)
		}
		if got := h.token(key); !strings.HasPrefix(got, "access-1") {
			t.Errorf("got %q, want the one that was fetched", got)
		}
		if _, err := h.ObtainToken(t.Context(), key); err != nil {
			t.Errorf("within the cooldown: got %v", err)
		}
		h.wantRequests("within the cooldown", 1)

		synctest.Wait()
		h.provider.Respond = func(int, url.Values) (*http.Response, error) {
			return brokertest.Response(http.StatusServiceUnavailable, "down"), nil
		}
		time.Sleep(time.Minute)
		var failed *record.TokenError
		if _, err := h.ObtainToken(t.Context(), key); !errors.As(err, &failed) || failed.Class != record.ClassTransient {
			t.Errorf("with a valid token, and none fetched: got %v, want a transient TokenError", err)
		}
	})
}

// Settings that the token endpoint refuses cost it one call, however many ask.
func TestFetchedTokenThatIsRefusedIsParked(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		key := h.ofTenant("a")
		h.mustUpdate(key, `{"settings": {"tenant": "wrong"}}`)
		synctest.Wait()
		sent := len(h.provider.Requests())
		h.provider.Respond = refuse
		var failed *record.TokenError
		for range 5 {
			if _, err := h.ObtainToken(t.Context(), key); !errors.As(err, &failed) || !failed.Parked {
				t.Errorf("got %v, want a TokenError for good", err)
			}
			if _, err := h.Source(key).Token(t.Context()); !errors.As(err, &failed) || !failed.Parked {
				t.Errorf("got %v, want a TokenError for good", err)
			}
		}
		h.wantRequests("refused", sent+1)
		if conn, err := h.Connection(t.Context(), key); err != nil || conn.State != record.StateInvalid || conn.Health != record.HealthNeedsAuth {
			t.Errorf("got %+v, %v; want invalid, needs_auth", conn, err)
		}
		time.Sleep(72 * time.Hour) // the sweep finds nothing to clear
		synctest.Wait()
		h.provider.Respond = nil
		h.mustUpdate(key, `{"settings": {"tenant": "right"}}`)
		if got := h.token(key); got == "" {
			t.Error("no token with the right settings")
		}
	})
}
