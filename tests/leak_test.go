package tests

import (
	"bytes"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/brokertest/vaulttest"
	"github.com/tokenbroker/caddy-token-broker/tests/oauthserver"
)

// With logs and traces at full detail, no secret shows up anywhere: not in normal operation, and
// not when services echo what they were sent.
func TestNoSecretIsEverShown(t *testing.T) {
	t.Parallel()
	config := oauthserver.Config{
		ClientSecret: "client-" + brokertest.ClientSecretCanary + "-secret",
		AccessPrefix: "at-" + brokertest.AccessCanary + "-", RefreshPrefix: "rt-" + brokertest.RefreshCanary + "-",
		Passwords: map[string]string{"ann": leakPassword},
	}
	t.Run("embedded", func(t *testing.T) {
		t.Parallel()
		showNoSecret(t, newDeployment(t, config).onDisk())
	})
	t.Run("vault", func(t *testing.T) {
		t.Parallel()
		showNoSecret(t, newDeployment(t, config).onVault(t, vaulttest.Shared(t)))
	})
}

func showNoSecret(t *testing.T, d *deployment) {
	d.apiKey = "key-" + brokertest.APIKeyCanary
	d.webhookSecret = "webhook-" + brokertest.WebhookCanary
	d.global = "debug\nmetrics"
	accessLog := filepath.Join(d.dir, "access.log")
	d.site = "log {\noutput file " + accessLog + "\n}\nlog stderr {\noutput stderr\n}"
	d.withEveryPlace(t)
	spans := d.collectTraces(t)
	p := d.start(t)

	scene := &scene{t: t, d: d, p: p}
	scene.imports()
	scene.calls()
	scene.echoes()
	scene.places()
	scene.proxy()
	scene.management()
	scene.failures()
	scene.administration()
	wantSpans(t, spans)
	p.stop(t)

	wantNoCanary(t, "the log", []byte(p.log.String()))
	wantNoCanary(t, "the traces", spans.everything())
	for _, delivery := range d.webhooks.all() {
		header := fmt.Sprintln(delivery.header)
		wantNoCanary(t, "a webhook", append([]byte(header), delivery.body...))
		if !delivery.isSigned(d.webhookSecret) {
			t.Error("a webhook is not signed with the secret")
		}
	}
	secretFiles := []string{
		filepath.Join(d.dir, "api-key"), filepath.Join(d.dir, "client-secret"), filepath.Join(d.dir, "webhook-secret"),
	}
	searched := wantNoCanaryInFiles(t, d.dir, secretFiles...) // includes the embedded store, which is encrypted
	for _, wanted := range []string{accessLog, filepath.Join(d.dir, "config", "caddy", "autosave.json")} {
		if !slices.Contains(searched, wanted) {
			t.Errorf("%s is not among the files searched, %q", wanted, searched)
		}
	}
	if !strings.Contains(p.log.String(), `"level":"debug"`) {
		t.Error("the log has no lines at level debug: the test proves nothing")
	}
}

// A scene exercises a process whose every output is searched for secrets.
type scene struct {
	t *testing.T
	d *deployment
	p *process
}

// imports sends imports, good and bad.
func (s *scene) imports() {
	settings := map[string]any{"secret_note": "note-" + brokertest.SettingCanary}
	login := s.d.provider.Login(s.t, consumer, 2*oauthserver.DefaultLifetime)
	body := tokensBody(s.t, login, settings)
	for range 2 {
		got := wantNoCanaryInAnswer(s.t, "the response to an import", s.p.importBody(s.t, acme, consumer, body))
		if got.status != http.StatusOK {
			s.t.Fatalf("import = %v, want 200", got)
		}
	}
	apiKey := `{"settings": {"api_key": "key-` + brokertest.SettingCanary + `"}}`
	wantNoCanaryInAnswer(s.t, "the response to an import", s.p.importBody(s.t, keyed, consumer, apiKey)).connection(s.t)
	bad := []string{
		strings.Replace(body, `"expires_in":3600`, `"expires_in":-1`, 1),
		strings.Replace(body, `"expires_in":3600`, `"expires_in":"`+login.RefreshToken+`"`, 1),
		strings.Replace(body, `"issued_at":"`, `"issued_at":"`+login.AccessToken, 1),
		strings.Replace(body, `"access_token":"`, `"access_token":"x\n`, 1),
		body[:len(body)-2], body + body, `"` + login.AccessToken + `"`, login.RefreshToken,
	}
	for _, body := range bad {
		got := wantNoCanaryInAnswer(s.t, "the response to a bad import", s.p.importBody(s.t, acme, consumer, body))
		if got.status != http.StatusBadRequest && got.status != http.StatusUnprocessableEntity {
			s.t.Errorf("a bad import = %v, want 400 or 422", got)
		}
	}
	for _, connector := range []string{acme, keyed} {
		wantNoCanaryInAnswer(s.t, "a connection", s.p.get(s.t, connector, consumer)).connection(s.t)
	}
}

// calls makes calls that succeed, by callers with secrets of their own.
func (s *scene) calls() {
	header := http.Header{
		"X-Apideck-Consumer-Id": {consumer}, "Cookie": {"session=" + brokertest.SettingCanary},
		"Authorization": {"Bearer " + brokertest.APIKeyCanary},
	}
	for _, path := range []string{"/acme/contacts", "/keyed/open/things"} {
		got := send(s.t, http.MethodPost, s.p.sidecarURL(path), header, "a body")
		if wantNoCanaryInAnswer(s.t, "the response to a call", got).status != http.StatusOK {
			s.t.Errorf("a call to %s = %v, want 200", path, got)
		}
	}
	got := send(s.t, http.MethodGet, s.p.sidecarURL("/authenticated/contacts"), s.d.apiHeader(consumer), "")
	if wantNoCanaryInAnswer(s.t, "the response to a call", got).status != http.StatusOK {
		s.t.Errorf("a call with an API key = %v, want 200", got)
	}
}

// echoes makes calls to a downstream that echoes the credential.
func (s *scene) echoes() {
	s.d.provider.OnAPI(func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		credential := r.Header.Get("Authorization") + r.Header.Get("X-Api-Key")
		for _, name := range []string{"X-Echo", "Location", "Set-Cookie", "X-Token-Broker-Error"} {
			w.Header().Set(name, "https://example.com/?token="+credential)
		}
		w.WriteHeader(http.StatusTemporaryRedirect)
	})
	defer s.d.provider.OnAPI(nil)
	for _, path := range []string{"/acme/contacts", "/keyed/open/things"} {
		got := wantNoCanaryInAnswer(s.t, "the response of a downstream that echoes", s.p.call(s.t, path, consumer))
		if got.status != http.StatusTemporaryRedirect || got.header.Get("X-Echo") == "" || got.header.Get("X-Token-Broker-Error") != "" {
			s.t.Errorf("a call to %s = %v, want downstream's redirect, scrubbed and without the broker's error header", path, got)
		}
	}
}

// failures makes refreshes fail in different ways, with a token endpoint that echoes secrets.
func (s *scene) failures() {
	defer s.d.provider.OnToken(nil)
	// echo replaces %s with the secrets of the request.
	echo := func(status int, body string) oauthserver.Hook {
		return func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
			sent := r.PostForm.Get("refresh_token") + " " + r.PostForm.Get("client_secret") + " " + r.Header.Get("Authorization")
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("X-Echo", sent)
			w.WriteHeader(status)
			_, _ = w.Write([]byte(strings.ReplaceAll(body, "%s", sent)))
		}
	}
	for _, failure := range []struct {
		customer string
		hook     oauthserver.Hook
	}{
		{"unavailable", echo(http.StatusServiceUnavailable, `{"error": "%s"}`)},
		{"broken", echo(http.StatusInternalServerError, `%s`)},
		{"unusable", echo(http.StatusOK, `{"access_token": {"%s": 1}}`)},
		{"no JSON", echo(http.StatusOK, `<html>%s</html>`)},
		{"dead", echo(http.StatusBadRequest, `{"error": "invalid_grant", "error_description": "%s"}`)},
		{"dropped", oauthserver.Drop},
	} {
		s.d.provider.OnToken(failure.hook)
		s.fail(failure.customer)
		if got := s.d.provider.TokenRequests(failure.customer); len(got) == 0 {
			s.t.Errorf("%s: got no token request", failure.customer)
		}
	}
	// This pauses the connector, no matter for which customer it was sent.
	unknown := echo(http.StatusBadRequest, `{"error": "%s", "error_uri": "%s"}`)
	var sent atomic.Bool
	s.d.provider.OnToken(func(w http.ResponseWriter, r *http.Request, server http.Handler) {
		unknown(w, r, server)
		sent.Store(true)
	})
	s.fail("unknown code")
	if !sent.Load() {
		s.t.Error("no token request was answered with an unknown code")
	}
	s.d.webhooks.await(s.t, failedEvent)
	s.d.webhooks.await(s.t, "vault.connection.token_refresh.pending")
}

// fail imports an expired token whose refresh fails, and makes a call with it.
func (s *scene) fail(customer string) {
	login := s.d.provider.Login(s.t, customer, 2*oauthserver.DefaultLifetime)
	wantNoCanaryInAnswer(s.t, "the response to an import", s.p.importBody(s.t, acme, customer, tokensBody(s.t, login, nil)))
	got := wantNoCanaryInAnswer(s.t, "the response to a call without a token", s.p.call(s.t, "/acme/contacts", customer))
	if got.status != http.StatusUnauthorized && got.status != http.StatusServiceUnavailable {
		s.t.Errorf("%s: a call = %v, want 401 or 503", customer, got)
	}
	wantNoCanaryInAnswer(s.t, "a connection", s.p.get(s.t, acme, customer))
}

// administration checks the responses of the admin endpoint.
func (s *scene) administration() {
	for _, path := range []string{
		"/config/", "/metrics", "/token_broker/health/live", "/token_broker/health/ready", "/reverse_proxy/upstreams",
	} {
		got, err := get(s.p.adminURL(path), http.Header{})
		if err != nil || got.status != http.StatusOK {
			s.t.Errorf("GET %s = %v, %v; want 200", path, got, err)
			continue
		}
		wantNoCanaryInAnswer(s.t, path, got)
	}
	adapted, err := s.d.command("adapt", "--config", s.p.configPath).CombinedOutput()
	if err != nil {
		s.t.Errorf("adapt: %v\n%s", err, adapted)
	}
	wantNoCanary(s.t, "adapt", adapted)
}

// wantSpans checks that the scene has left spans of each kind.
func wantSpans(t *testing.T, spans *collector) {
	t.Helper()
	imported := spans.await(t, "token_broker.import", anySpan)
	for _, name := range []string{
		"token_broker.store.load", "token_broker.store.save", "token_broker.token_request",
		"token_broker.inject", "token_broker.downstream", "token_broker.webhook.deliver",
		"token_broker.list", "token_broker.update", "token_broker.validate", "token_broker.obtain_token",
		"token_broker.delete", "token_broker.delete_consumer", "token_broker.revoke",
	} {
		spans.await(t, name, anySpan)
	}
	// The span of a refresh is a root, with a link to the request that caused it.
	spans.await(t, "token_broker.refresh", func(s *tracev1.Span) bool {
		return len(s.ParentSpanId) == 0 && slices.ContainsFunc(s.Links, func(link *tracev1.Span_Link) bool {
			return slices.ContainsFunc(spans.named("token_broker.import"), func(imported *tracev1.Span) bool {
				return bytes.Equal(link.SpanId, imported.SpanId) && bytes.Equal(link.TraceId, imported.TraceId)
			})
		})
	})
	if len(imported.ParentSpanId) == 0 {
		t.Error("the span of the import has no parent, want the span of the request")
	}
}
