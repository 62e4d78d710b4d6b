package sandbox

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func newProvider() *Provider {
	return &Provider{TokenLifetime: caddy.Duration(time.Minute), state: newState()}
}

// send sends a request to p and returns the status and the decoded body of the response.
func send(t *testing.T, p *Provider, req *http.Request) (int, map[string]any) {
	t.Helper()
	rec := httptest.NewRecorder()
	next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
		w.WriteHeader(http.StatusTeapot)
		return nil
	})
	if err := p.ServeHTTP(rec, req, next); err != nil {
		t.Fatal(err)
	}
	var body map[string]any
	if rec.Body.Len() > 0 {
		if err := json.Unmarshal(rec.Body.Bytes(), &body); err != nil {
			t.Fatal(err)
		}
	}
	return rec.Code, body
}

func redeem(t *testing.T, p *Provider, refreshToken string) (int, map[string]any) {
	t.Helper()
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refreshToken}}
	req := httptest.NewRequest(http.MethodPost, "/oauth/token", strings.NewReader(form.Encode()))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(ClientID, ClientSecret)
	return send(t, p, req)
}

func call(t *testing.T, p *Provider, accessToken string) (int, map[string]any) {
	t.Helper()
	req := httptest.NewRequest(http.MethodGet, "/api/things", nil)
	req.Header.Set("Authorization", "Bearer "+accessToken)
	return send(t, p, req)
}

func TestRefreshTokensRotate(t *testing.T) {
	t.Parallel()
	p := newProvider()
	token := "sandbox-rt-1"
	for number := 1; number <= 3; number++ {
		status, body := redeem(t, p, token)
		if status != http.StatusOK || body["token_type"] != "Bearer" || body["expires_in"] != 60.0 {
			t.Fatalf("refresh %d: got status %d with %v", number, status, body)
		}
		next := body["refresh_token"].(string)
		if next == token {
			t.Fatal("the refresh token was not replaced")
		}
		token = next
		access := body["access_token"].(string)
		hash := sha256.Sum256([]byte(access))
		status, body = call(t, p, access)
		if status != http.StatusOK || body["token_number"] != float64(number) || body["token_sha256"] != hex.EncodeToString(hash[:4]) {
			t.Errorf("call %d: got status %d with %v", number, status, body)
		}
	}
}

func TestReuseRevokesTheGrant(t *testing.T) {
	t.Parallel()
	p := newProvider()
	_, first := redeem(t, p, "sandbox-rt-1")
	if status, body := redeem(t, p, "sandbox-rt-1"); status != http.StatusBadRequest || body["error"] != "invalid_grant" {
		t.Errorf("the spent token: got status %d with %v", status, body)
	}
	if status, body := redeem(t, p, first["refresh_token"].(string)); status != http.StatusBadRequest || body["error"] != "invalid_grant" {
		t.Errorf("its successor: got status %d with %v", status, body)
	}
	if status, _ := call(t, p, first["access_token"].(string)); status != http.StatusUnauthorized {
		t.Errorf("the access token: got status %d", status)
	}
	if status, _ := redeem(t, p, "sandbox-rt-2"); status != http.StatusOK {
		t.Errorf("another grant: got status %d", status)
	}
}

func TestTokenEndpointRefuses(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, form, user, password string
		status                     int
		code                       string
	}{
		{"an unknown token", "grant_type=refresh_token&refresh_token=other", ClientID, ClientSecret, 400, "invalid_grant"},
		{"another client", "grant_type=refresh_token&refresh_token=sandbox-rt-1", ClientID, "wrong", 401, "invalid_client"},
		{"no client", "grant_type=refresh_token&refresh_token=sandbox-rt-1", "", "", 401, "invalid_client"},
		{"another grant type", "grant_type=password", ClientID, ClientSecret, 400, "unsupported_grant_type"},
		{"no form", "%zz", ClientID, ClientSecret, 400, "invalid_request"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			req := httptest.NewRequest(http.MethodPost, "/oauth/token", strings.NewReader(tt.form))
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			if tt.user != "" {
				req.SetBasicAuth(tt.user, tt.password)
			}
			if status, body := send(t, newProvider(), req); status != tt.status || body["error"] != tt.code {
				t.Errorf("got status %d with %v, want %d with %s", status, body, tt.status, tt.code)
			}
		})
	}
}

func TestAccessTokensExpire(t *testing.T) {
	t.Parallel()
	s := newState()
	expiry := time.Now().Add(time.Minute)
	access, _, _ := s.redeem("sandbox-rt-1", expiry)
	if _, ok := s.number(access, expiry.Add(-time.Second)); !ok {
		t.Error("the token is not valid before its expiry")
	}
	if _, ok := s.number(access, expiry); ok {
		t.Error("the token is valid after its expiry")
	}
}

func TestWebhooksAreVerified(t *testing.T) {
	t.Parallel()
	p := newProvider()
	mac := hmac.New(sha256.New, []byte(WebhookSecret))
	mac.Write([]byte(`{"a":1}`))
	for _, signature := range []string{hex.EncodeToString(mac.Sum(nil)), "00", ""} {
		req := httptest.NewRequest(http.MethodPost, "/webhooks", strings.NewReader(`{"a":1}`))
		req.Header.Set("X-Apideck-Signature", signature)
		if status, _ := send(t, p, req); status != http.StatusNoContent {
			t.Errorf("got status %d", status)
		}
	}
	_, body := send(t, p, httptest.NewRequest(http.MethodGet, "/webhooks", nil))
	got := body["webhooks"].([]any)
	for i, want := range []bool{true, false, false} {
		if w := got[i].(map[string]any); w["verified"] != want || w["body"] != `{"a":1}` {
			t.Errorf("webhook %d: got %v, want verified %t", i, w, want)
		}
	}
	for range 2 * maxWebhooks {
		send(t, p, httptest.NewRequest(http.MethodPost, "/webhooks", nil))
	}
	if n := len(p.state.webhooks()); n != maxWebhooks {
		t.Errorf("%d webhooks are kept, want %d", n, maxWebhooks)
	}
}

func TestOtherRequestsGoToTheNextHandler(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/", "/oauth/token", "/apis", "/oauth/authorize"} {
		if status, _ := send(t, newProvider(), httptest.NewRequest(http.MethodGet, path, nil)); status != http.StatusTeapot {
			t.Errorf("%s: got status %d", path, status)
		}
	}
}

func TestReloadKeepsGrants(t *testing.T) {
	t.Parallel()
	provision := func() *Provider {
		p := &Provider{}
		if err := p.Provision(caddy.Context{Context: context.Background()}); err != nil {
			t.Fatal(err)
		}
		return p
	}
	old := provision()
	_, body := redeem(t, old, "sandbox-rt-reload")
	next := provision()
	if err := old.Cleanup(); err != nil {
		t.Fatal(err)
	}
	if status, _ := redeem(t, next, body["refresh_token"].(string)); status != http.StatusOK {
		t.Errorf("got status %d", status)
	}
	if err := next.Cleanup(); err != nil {
		t.Fatal(err)
	}
}

func TestDirective(t *testing.T) {
	t.Parallel()
	p := &Provider{}
	if err := p.UnmarshalCaddyfile(caddyfile.NewTestDispenser("sandbox_provider {\ntoken_lifetime 5s\n}")); err != nil || time.Duration(p.TokenLifetime) != 5*time.Second {
		t.Errorf("got %v, %v", p.TokenLifetime, err)
	}
	for _, input := range []string{
		"sandbox_provider x", "sandbox_provider {\nclients 3\n}", "sandbox_provider {\ntoken_lifetime\n}",
		"sandbox_provider {\ntoken_lifetime 1ms\n}", "sandbox_provider {\ntoken_lifetime 1s\ntoken_lifetime 1s\n}",
	} {
		if err := new(Provider).UnmarshalCaddyfile(caddyfile.NewTestDispenser(input)); err == nil {
			t.Errorf("%q is accepted", input)
		}
	}
}
