package tests

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest/answertest"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/tests/oauthserver"
)

// answersDir has the answers of token endpoints.
const answersDir = "broker/internal/tokenendpoint/testdata/answers"

// An endpointAnswer is the answer of a connector's token endpoint.
type endpointAnswer struct{ *answertest.Answer }

// connector returns the block of a connector whose token endpoint answers like that.
func (a endpointAnswer) connector(name, server, clientSecret string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "connector crm/%s {\nauth_type oauth2\ntoken_url %s/token/%s\nbase_url %s\nauth_style params\nallow_private\n", name, server, name, server)
	fmt.Fprintf(&b, "client_id %s\nclient_secret %s\n", oauthserver.ClientID, clientSecret)
	for member, path := range a.Answer.Answer {
		fmt.Fprintf(&b, "answer %s %s\n", member, path)
	}
	for option, words := range map[string][]string{
		"permanent_error": a.PermanentErrors, "configuration_error": a.ConfigurationErrors,
		"transient_error": a.TransientErrors, "early_error": a.EarlyErrors,
	} {
		for _, word := range words {
			fmt.Fprintf(&b, "%s %q\n", option, word)
		}
	}
	return b.String() + "}\n"
}

// ServeHTTP implements [http.Handler].
func (a endpointAnswer) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	resp := a.Response(time.Now())
	w.Header()["Content-Type"] = nil // not what net/http would make of the body
	maps.Copy(w.Header(), resp.Header)
	w.WriteHeader(resp.StatusCode)
	_, _ = io.Copy(w, resp.Body)
}

// A recordedEndpoint has the token endpoint of each answer, and the API.
type recordedEndpoint struct {
	answers map[string]endpointAnswer
	mu      sync.Mutex
	sent    map[string][]string // guarded by mu; the refresh tokens that each token endpoint got
}

// ServeHTTP implements [http.Handler].
func (e *recordedEndpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, isToken := strings.CutPrefix(r.URL.Path, "/token/")
	if !isToken {
		if r.URL.Path == "/expired" {
			w.WriteHeader(http.StatusUnauthorized)
		}
		_, _ = io.WriteString(w, r.Header.Get("Authorization"))
		return
	}
	e.mu.Lock()
	e.sent[name] = append(e.sent[name], r.PostFormValue("refresh_token"))
	e.mu.Unlock()
	e.answers[name].ServeHTTP(w, r)
}

// sentTo returns the refresh tokens that an endpoint got, the last one last.
func (e *recordedEndpoint) sentTo(name string) []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]string(nil), e.sent[name]...)
}

// What token endpoints have answered leads to what it must, also in the binary. A new file is a
// new case.
func TestAnswersOfTokenEndpointsEndToEnd(t *testing.T) {
	t.Parallel()
	endpoint := &recordedEndpoint{answers: make(map[string]endpointAnswer), sent: make(map[string][]string)}
	for name, a := range answertest.Read(t, filepath.Join(root, answersDir)) {
		endpoint.answers[name] = endpointAnswer{a}
	}
	server := httptest.NewServer(endpoint)
	t.Cleanup(server.Close)
	d := newDeployment(t, oauthserver.Config{}).onDisk()
	failed := 0
	for name, a := range endpoint.answers {
		d.broker += a.connector(name, server.URL, d.secretFile(t, "client-secret", d.clientSecret))
		if a.Want.Class == record.ClassPermanent || a.Want.Class == record.ClassConfiguration {
			failed++
		}
	}
	p := d.start(t)
	t.Run("each", func(t *testing.T) {
		for name, a := range endpoint.answers {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				a.check(t, p, endpoint, name, server.URL)
			})
		}
	})
	p.stop(t) // delivers pending webhooks
	if got := len(d.webhooks.of(failedEvent)); got != failed {
		t.Errorf("got %d webhooks %s, want one for each of the %d answers that are final", got, failedEvent, failed)
	}
	for _, secret := range []string{"the-refresh-token", d.clientSecret} {
		if strings.Contains(p.log.String(), secret) {
			t.Errorf("the log shows %s", secret)
		}
	}
}

// check imports a connection whose token has expired and calls with it.
func (a endpointAnswer) check(t *testing.T, p *process, endpoint *recordedEndpoint, name, api string) {
	p.importBody(t, "crm/"+name, consumer, fmt.Sprintf(`{"credentials":{"access_token":"a1","refresh_token":"the-refresh-token","issued_at":%q,"expires_in":60}}`,
		time.Now().Add(-time.Hour).UTC().Format(time.RFC3339))).connection(t)
	got := callAnswered(t, p, name, api+"/things")
	switch a.Want.Class {
	case "":
		if string(got.body) != "Bearer "+a.Want.AccessToken || got.status != http.StatusOK {
			t.Errorf("the call = %v, want downstream to get %s", got, a.Want.AccessToken)
		}
	case record.ClassPermanent:
		body := got.wantError(t, http.StatusUnauthorized, "UnauthorizedError")
		detail, _ := body.Detail.(map[string]any)
		debug, _ := detail["debug"].(map[string]any)
		if debug["code"] != a.Want.Code || a.Want.Detail != "" && debug["detail"] != a.Want.Detail {
			t.Errorf("the debug is %v, want code %s, detail %s", debug, a.Want.Code, a.Want.Detail)
		}
	default:
		got.wantError(t, http.StatusServiceUnavailable, "ServiceUnavailableError", "("+string(a.Want.Class)+": ", a.Want.Code, a.Want.Detail)
		wait, err := strconv.Atoi(got.header.Get("Retry-After"))
		if least := time.Duration(a.Want.RetryAfter); err != nil || time.Duration(wait)*time.Second < least-waitTimeout {
			t.Errorf("Retry-After is %s, want about %v", got.header.Get("Retry-After"), least)
		}
	}
	a.checkRefreshToken(t, p, endpoint, name, api)
	lifetime := time.Duration(a.Want.RefreshLifetime)
	if lifetime == 0 {
		return
	}
	if got := time.Until(time.UnixMilli(p.get(t, "crm/"+name, consumer).connection(t).RefreshTokenExpiresAt)); (got - lifetime).Abs() > waitTimeout {
		t.Errorf("the refresh token lapses in %v, want %v", got, lifetime)
	}
}

func callAnswered(t *testing.T, p *process, name, target string) answer {
	t.Helper()
	return sendProxied(t, p.proxied(t.Context(), t, http.MethodGet, "", target, nil, "X-Apideck-Unified-Api", "crm", "X-Apideck-Service-Id", name))
}

// checkRefreshToken checks which refresh token the next request has.
func (a endpointAnswer) checkRefreshToken(t *testing.T, p *process, endpoint *recordedEndpoint, name, api string) {
	if sent := endpoint.sentTo(name); len(sent) == 0 || sent[0] != "the-refresh-token" {
		t.Fatalf("the token endpoint got %q, want the imported refresh token first", sent)
	}
	if a.Want.RefreshToken == "" {
		return
	}
	if a.Want.Class == "" {
		callAnswered(t, p, name, api+"/expired") // has a valid token refreshed; a failed refresh is retried anyway
	}
	eventually(t, "a request with the new refresh token", func() error {
		if sent := endpoint.sentTo(name); sent[len(sent)-1] != a.Want.RefreshToken {
			return fmt.Errorf("the token endpoint got %q", sent)
		}
		return nil
	})
}
