package tests

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/tests/oauthserver"
)

func TestClientCredentialsNeedNoTokenToImport(t *testing.T) {
	inEveryStore(t, func(t *testing.T, d *deployment) {
		p := d.start(t)
		if got := p.importBody(t, machine, consumer, `{}`).connection(t); got.State != "callable" || got.Health != "ok" {
			t.Errorf("got %+v, want a callable connection", got)
		}
		for range 2 {
			if got := p.call(t, "/machine/things", consumer); got.status != http.StatusOK {
				t.Fatalf("a call = %v, want 200", got)
			}
		}
		if got := d.provider.TokenRequests(""); len(got) != 1 || got[0].GrantType != "client_credentials" {
			t.Errorf("got token requests %+v, want one", got)
		}
	})
}

func TestPasswordGrant(t *testing.T) {
	t.Parallel()
	d := newDeployment(t, oauthserver.Config{Passwords: map[string]string{"ann": "an-own-password"}}).onDisk()
	d.broker = fmt.Sprintf(`connector crm/owner {
		auth_type oauth2
		grant_type password
		auth_style header
		token_url %s
		base_url %s
		client_id %s
		client_secret %s
		allow_private
	}`, d.provider.TokenURL, d.provider.APIURL, oauthserver.ClientID, d.secretFile(t, "owner-secret", d.clientSecret))
	d.site = sidecarPath("owner", "crm/owner", d.provider.APIURL)
	p := d.start(t)
	p.importBody(t, "crm/owner", consumer, `{"settings": {"username": "ann"}}`).wantError(t, 422, "InvalidStateError", "settings.password")
	p.importBody(t, "crm/owner", consumer, `{"settings": {"username": "ann", "password": "wrong"}}`).connection(t)
	for range 2 {
		p.call(t, "/owner/things", consumer).wantError(t, 401, "UnauthorizedError")
	}
	if got := len(d.provider.TokenRequests("")); got != 1 {
		t.Errorf("a refused password cost %d token requests, want 1", got)
	}
	got := p.importBody(t, "crm/owner", consumer, `{"settings": {"password": "an-own-password"}}`)
	if strings.Contains(got.String(), "an-own-password") {
		t.Error("the response shows the password")
	}
	p.generationOf(t, "/owner/things", consumer)

	// Downstream refuses the token, and the token endpoint the refresh token that came with it:
	// the same call obtains another token with the password.
	first, _ := d.provider.LastCall("/things")
	d.provider.OnAPI(func(w http.ResponseWriter, r *http.Request, server http.Handler) {
		if r.Header.Get("Authorization") == first.Header.Get("Authorization") {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		server.ServeHTTP(w, r)
	})
	refuse := oauthserver.Fail(http.StatusBadRequest, "application/json", `{"error":"invalid_grant"}`)
	var grants grantLog
	d.provider.OnToken(func(w http.ResponseWriter, r *http.Request, server http.Handler) {
		if grants.note(r) == "refresh_token" {
			refuse(w, r, server)
			return
		}
		server.ServeHTTP(w, r)
	})
	p.generationOf(t, "/owner/things", consumer)
	if got, want := grants.String(), "refresh_token password"; got != want {
		t.Errorf("the token requests are %s, want %s", got, want)
	}
	if strings.Contains(p.log.String(), "an-own-password") {
		t.Error("the log shows the password")
	}
}

// A grantLog records the grant types of token requests.
type grantLog struct {
	mu    sync.Mutex
	types []string // guarded by mu
}

func (l *grantLog) note(r *http.Request) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	grant := r.PostForm.Get("grant_type")
	l.types = append(l.types, grant)
	return grant
}

func (l *grantLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.types, " ")
}

// sidecarPath returns the block of the sidecar's site for another connector.
func sidecarPath(path, connector, upstream string) string {
	return fmt.Sprintf("handle_path /%s/* {\nreverse_proxy %s {\ntransport token_broker %s {\napp %s\n}\n}\n}", path, upstream, connector, application)
}

// jsonService is a service with a token endpoint that accepts only JSON, and an API that
// requires the token in a cookie and an account in basic authentication.
type jsonService struct {
	mu       sync.Mutex
	requests []string // guarded by mu; token requests
	calls    []string // guarded by mu; requests to the API
}

func (s *jsonService) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	if r.URL.Path != "/token" {
		user, password, _ := r.BasicAuth()
		s.calls = append(s.calls, fmt.Sprintf("%s %s %s:%s", r.URL.Path, r.Header.Get("Cookie"), user, password))
		_, _ = w.Write([]byte("{}\n"))
		return
	}
	var members map[string]string
	if r.Header.Get("Content-Type") != "application/json" || json.NewDecoder(r.Body).Decode(&members) != nil {
		http.Error(w, `{"error":"invalid_request"}`, http.StatusBadRequest)
		return
	}
	sent, _ := json.Marshal(members)
	s.requests = append(s.requests, string(sent))
	_, _ = fmt.Fprintf(w, `{"access_token": "token-%d", "expires_in": 3600}`, len(s.requests))
}

// A connector file defines the whole connector; the configuration only names it.
func TestConnectorFromAFile(t *testing.T) {
	t.Parallel()
	service := &jsonService{}
	server := httptest.NewServer(service)
	t.Cleanup(server.Close)
	d := newDeployment(t, oauthserver.Config{}).onDisk()
	file := filepath.Join(d.dir, "connectors", "json.json")
	if err := os.Mkdir(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	writeFile(t, file, strings.ReplaceAll(`{
		"id": "crm/json", "name": "JSON", "auth_type": "oauth2", "grant_type": "client_credentials",
		"token_url": "URL/token", "auth_style": "params", "token_body": "json", "token_params": {"audience": "{tenant}"},
		"base_url": "URL", "allow_private": true,
		"settings": [{"name": "tenant", "required": true}, {"name": "email"}, {"name": "client_id"}, {"name": "client_secret", "sensitive": true}],
		"inject": [{"kind": "cookie", "name": "session"}, {"kind": "basic", "username": "{email}/token", "password": "x"}]
	}`, "URL", server.URL))
	d.broker = "catalog " + filepath.Dir(file) + "\nconnector crm/json"
	d.site = sidecarPath("json", "crm/json", server.URL)
	p := d.start(t)
	p.importBody(t, "crm/json", consumer, `{"settings": {"tenant": "one", "email": "a@acme.test", "client_id": "own", "client_secret": "own-secret"}}`).connection(t)
	header := http.Header{"X-Apideck-Consumer-Id": {consumer}, "Cookie": {"session=mine; other=1"}, "Authorization": {"Bearer mine"}}
	if got := send(t, http.MethodGet, p.sidecarURL("/json/things"), header, ""); got.status != http.StatusOK {
		t.Fatalf("a call = %v, want 200", got)
	}
	service.mu.Lock()
	defer service.mu.Unlock()
	if got, want := fmt.Sprint(service.requests), `[{"audience":"one","client_id":"own","client_secret":"own-secret","grant_type":"client_credentials"}]`; got != want {
		t.Errorf("the token endpoint got %s, want %s", got, want)
	}
	if got, want := fmt.Sprint(service.calls), "[/things session=token-1 a@acme.test/token:x]"; got != want {
		t.Errorf("the API got %s, want %s", got, want)
	}

	// The subcommand knows the connector too, while the server runs.
	out, err := d.command("connectors", "crm/json", "--config", p.configPath).CombinedOutput()
	if err != nil || !strings.Contains(string(out), `"tenant": "your-tenant"`) || !strings.Contains(string(out), file+", configuration") {
		t.Errorf("connectors: %v\n%s", err, out)
	}
	out, err = d.command("connectors", "crm/jsn", "--catalog", filepath.Dir(file)).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "did you mean crm/json?") {
		t.Errorf("connectors crm/jsn: %v\n%s", err, out)
	}
}
