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
		_, _, err := h.importBody(key, `{}`)
		wantInvalid(t, err, "settings.tenant")
		if outcome := h.mustImportBody(key, `{"settings":{"tenant":"one"}}`); outcome != record.ImportStored {
			t.Errorf("got %s, want stored", outcome)
		}
		h.wantView(key, record.StateCallable, record.HealthOK)
		if outcome := h.mustImportBody(key, `{"settings":{"tenant":"one"}}`); outcome != record.ImportKept {
			t.Errorf("the second import: got %s, want kept", outcome)
		}
		if got := h.grants(); got != "" {
			t.Errorf("the imports sent token requests: %s", got)
		}
		first := h.token(key)
		if again := h.token(key); again != first {
			t.Errorf("got another token while %s is valid: %s", first, again)
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
		if outcome := h.mustImportBody(key, `{"settings":{"color":"red"}}`); outcome != record.ImportKept {
			t.Errorf("a setting that token requests do not use: got %s, want kept", outcome)
		}
		if got := h.token(key); got != first {
			t.Errorf("a setting that token requests do not use: got %q, want %q as before", got, first)
		}
		if outcome := h.mustImportBody(key, `{"settings":{"tenant":"two"}}`); outcome != record.ImportStored {
			t.Errorf("got %s, want stored", outcome)
		}
		if second := h.token(key); second == first {
			t.Error("the token of tenant one is served to tenant two")
		}
	})
}

// The settings change while a token is fetched with the former ones.
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
			t.Errorf("the waiting call got %s, want the token of tenant two", token)
		}
		h.wantRecord(key, recordWant{access: "for-two"})
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
		time.Sleep(56 * time.Minute) // refreshed ahead of the expiry, which fails
		h.token(key)
		time.Sleep(30 * time.Second) // long before the token expires
		if got := len(h.provider.Requests()); got != 3 {
			t.Errorf("got %d token requests, want the third soon after the second failed", got)
		}
	})
}

// connectOwnClients configures cc so that connections may have their own OAuth clients.
func (h *harness) connectOwnClients() {
	h.t.Helper()
	h.connect(connector.Definition{
		ID: cc, GrantType: connector.ClientCredentials, AuthStyle: connector.AuthParams,
		Settings: []connector.Setting{{Name: "client_id"}, {Name: "client_secret", Sensitive: true}},
	})
	h.provider.Clients = map[string]string{"theirs": "their-" + brokertest.ClientSecretCanary, "public": ""}
}

func TestConnectionHasAnOAuthClientOfItsOwn(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.connectOwnClients()
		keys := h.customers(cc, "own", "common", "public")
		own, common, public := keys[0], keys[1], keys[2]
		h.mustImportBody(own, `{"settings":{"client_id":"theirs","client_secret":"their-`+brokertest.ClientSecretCanary+`"}}`)
		h.mustImportBody(common, `{}`)
		h.mustImportBody(public, `{"settings":{"client_id":"public"}}`)
		_, _, err := h.importBody(h.at(cc), `{"settings":{"client_secret":"alone"}}`)
		wantInvalid(t, err, "settings.client_id")
		h.token(own)
		h.token(common)
		h.token(public)
		var clients []string
		for _, form := range h.provider.Requests() {
			clients = append(clients, fmt.Sprint(form["client_id"], len(form["client_secret"])))
		}
		if got, want := strings.Join(clients, " "), "[theirs] 1 [client] 1 [public] 0"; got != want {
			t.Errorf("got clients %s, want %s", got, want)
		}
	})
}

// A wrong client of one connection trips that connection's breaker only, and a corrected
// one is tried at once.
func TestWrongOAuthClientOfAConnectionStopsNoOther(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.connectOwnClients()
		keys := h.customers(cc, "wrong", "own", "common")
		wrong, own, common := keys[0], keys[1], keys[2]
		h.mustImportBody(wrong, `{"settings":{"client_id":"theirs","client_secret":"wrong"}}`)
		h.mustImportBody(own, `{"settings":{"client_id":"theirs","client_secret":"their-`+brokertest.ClientSecretCanary+`"}}`)
		h.mustImportBody(common, `{}`)
		for range 3 {
			_, err := h.Source(wrong).Token(t.Context())
			wantTokenError(t, err, record.ClassConfiguration)
		}
		h.wantRequests("for the wrong client", 1)
		h.token(own)
		h.token(common)
		h.mustImportBody(wrong, `{"settings":{"client_secret":"their-`+brokertest.ClientSecretCanary+`"}}`)
		h.token(wrong)
	})
}

// A tenant that does not exist is no fault of the client.
func TestOneConnectionsSettingsStopNoOther(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.connectTenants()
		h.provider.Respond = func(_ int, form url.Values) (*http.Response, error) {
			if form.Get("audience") == "unknown" {
				return brokertest.Response(http.StatusNotFound, "no such tenant"), nil
			}
			return nil, nil
		}
		keys := h.customers(cc, "good", "bad")
		good, bad := keys[0], keys[1]
		h.mustImportBody(bad, `{"settings":{"tenant":"unknown"}}`)
		h.mustImportBody(good, `{"settings":{"tenant":"one"}}`)
		for range 2 {
			if _, err := h.Source(bad).Token(t.Context()); err == nil {
				t.Error("a tenant that does not exist got a token")
			}
		}
		h.token(good)
		h.wantRequests("one for each connection", 2)
	})
}

// All connections of a connector share its client.
func TestWrongClientStopsAllTenants(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.connectTenants()
		h.provider.ClientSecret = "changed"
		keys := h.customers(cc, "one", "two")
		for _, key := range keys {
			h.mustImportBody(key, `{"settings":{"tenant":"`+key.Consumer+`"}}`)
			_, err := h.Source(key).Token(t.Context())
			wantTokenError(t, err, record.ClassConfiguration)
		}
		h.wantRequests("for two connections", 1)
	})
}

func TestWrongClientIsProbedEveryFiveMinutes(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.connectTenants()
		h.provider.ClientSecret = "changed"
		var sent []time.Time
		h.provider.Respond = func(int, url.Values) (*http.Response, error) {
			sent = append(sent, time.Now())
			return nil, nil
		}
		keys := h.customers(cc, "one", "two")
		for _, key := range keys {
			h.mustImportBody(key, `{"settings":{"tenant":"`+key.Consumer+`"}}`)
		}
		for range 59 { // the next probe may come before or after the end of an hour
			for _, key := range keys {
				if _, err := h.Source(key).Token(t.Context()); err == nil {
					t.Error("got a token")
				}
			}
			time.Sleep(time.Minute)
		}
		synctest.Wait()
		if got := len(sent); got != 12 {
			t.Errorf("got %d token requests in an hour, want 12", got)
		}
		for i := 1; i < len(sent); i++ {
			if wait := sent[i].Sub(sent[i-1]); wait != 5*time.Minute {
				t.Errorf("probe %d came after %v, want 5m", i, wait)
			}
		}
	})
}

func TestClientCredentialsAreFetchedWhenTheTokenExpires(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		key := h.at(cc)
		h.mustImportBody(key, `{"credentials":{"access_token":"a1",`+issued(0)+`}}`)
		time.Sleep(2 * time.Hour)
		if got := h.token(key); !strings.HasPrefix(got, "access-1-") {
			t.Errorf("got %q, want a fetched token", got)
		}
		if got := h.provider.Requests()[0].Get("grant_type"); got != "client_credentials" {
			t.Errorf("got grant_type %q, want client_credentials", got)
		}
	})
}

func TestObtainTokenFetchesOne(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		key := h.at(cc)
		if _, err := h.ObtainToken(t.Context(), key); !errors.Is(err, record.ErrConnectionNotFound) {
			t.Errorf("without a connection: got %v, want ErrConnectionNotFound", err)
		}
		h.mustImportBody(key, `{"credentials": {"access_token": "a1", `+issued(0)+`}}`)
		conn, err := h.ObtainToken(t.Context(), key)
		if err != nil || conn.State != record.StateCallable {
			t.Fatalf("got %+v, %v; want a callable connection", conn, err)
		}
		if got := h.token(key); !strings.HasPrefix(got, "access-1") {
			t.Errorf("got %q, want the fetched one", got)
		}
		if _, err := h.ObtainToken(t.Context(), key); err != nil {
			t.Errorf("within the cooldown: got %v, want no error", err)
		}
		h.wantRequests("within the cooldown", 1)

		synctest.Wait()
		h.provider.Respond = func(int, url.Values) (*http.Response, error) {
			return brokertest.Response(http.StatusServiceUnavailable, "down"), nil
		}
		time.Sleep(time.Minute)
		_, err = h.ObtainToken(t.Context(), key) // though the stored token is valid
		wantTokenError(t, err, record.ClassTransient)
	})
}

// Settings that the token endpoint refuses cost it one request, however many callers ask.
func TestFetchedTokenThatIsRefusedIsParked(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		key := h.ofTenant("a")
		h.mustUpdate(key, `{"settings": {"tenant": "wrong"}}`)
		synctest.Wait()
		sent := len(h.provider.Requests())
		h.provider.Respond = refuse
		for range 5 {
			_, err := h.ObtainToken(t.Context(), key)
			wantParked(t, err)
			_, err = h.Source(key).Token(t.Context())
			wantParked(t, err)
		}
		h.wantRequests("refused", sent+1)
		h.wantView(key, record.StateInvalid, record.HealthNeedsAuth)
		time.Sleep(72 * time.Hour) // the sweep finds nothing to clear
		synctest.Wait()
		h.provider.Respond = nil
		h.mustUpdate(key, `{"settings": {"tenant": "right"}}`)
		if got := h.token(key); got == "" {
			t.Error("no token with the right settings")
		}
	})
}
