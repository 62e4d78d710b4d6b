package tests

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/tests/oauthserver"
)

// consumer is the consumer in tests that need only one.
const consumer = "test-consumer"

// An answer is a response of the token broker.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// String shows the answer in failures.
func (a answer) String() string { return fmt.Sprintf("%d %v %s", a.status, a.header, a.body) }

// decode reads the body into to.
func (a answer) decode(t testing.TB, to any) {
	t.Helper()
	if err := json.Unmarshal(a.body, to); err != nil {
		t.Fatalf("the response is not JSON: %v: %v", err, a)
	}
}

// client uses a new connection for each request, since processes come and go.
var client = &http.Client{
	Timeout:       waitTimeout,
	Transport:     &http.Transport{DisableKeepAlives: true},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

func (p *process) adminURL(path string) string {
	return fmt.Sprintf("http://127.0.0.1:%d%s", p.ports.Admin, path)
}

func (p *process) apiURL(path string) string {
	return fmt.Sprintf("http://127.0.0.1:%d%s", p.ports.API, path)
}

func (p *process) sidecarURL(path string) string {
	return fmt.Sprintf("http://127.0.0.1:%d%s", p.ports.Sidecar, path)
}

// do sends a request. It returns an error if an exchange with the API does not conform to
// docs/openapi.yaml.
func do(req *http.Request) (answer, error) {
	document, err := theContract()
	if err != nil {
		return answer{}, err
	}
	var body []byte
	if req.Body != nil {
		if body, err = io.ReadAll(req.Body); err != nil {
			return answer{}, err
		}
		req.Body = io.NopCloser(bytes.NewReader(body))
	}
	resp, err := client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	got := answer{resp.StatusCode, resp.Header, content}
	if err != nil {
		return got, err
	}
	return got, document.check(req, body, got)
}

// try sends a request; see [do].
func try(ctx context.Context, method, url string, header http.Header, body string) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	req.Header = header.Clone()
	return do(req)
}

// send sends a request, and fails the test if there is no response.
func send(t testing.TB, method, url string, header http.Header, body string) answer {
	t.Helper()
	got, err := try(t.Context(), method, url, header, body)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// get sends a GET request.
func get(url string, header http.Header) (answer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), waitTimeout)
	defer cancel()
	return try(ctx, http.MethodGet, url, header, "")
}

// apiHeader returns the header of a request to the connections API.
func (d *deployment) apiHeader(consumer string) http.Header {
	return http.Header{
		"Authorization":         {"Bearer " + d.apiKey},
		"X-Apideck-App-Id":      {application},
		"X-Apideck-Consumer-Id": {consumer},
		"Content-Type":          {"application/json"},
	}
}

// importBody sends an import and returns the response.
func (p *process) importBody(t testing.TB, connector, consumer, body string) answer {
	t.Helper()
	return send(t, http.MethodPost, p.apiURL("/vault/connections/"+connector+"/import"), p.deployment.apiHeader(consumer), body)
}

// importTokens imports the tokens of a login and returns the outcome, stored or kept.
func (p *process) importTokens(t testing.TB, connector, consumer string, tokens oauthserver.Tokens) string {
	t.Helper()
	got := p.importBody(t, connector, consumer, tokensBody(t, tokens, nil))
	if got.status != http.StatusOK {
		t.Fatalf("import = %v, want 200", got)
	}
	return got.header.Get("X-Token-Broker-Import")
}

// tokensBody returns the body of an import.
func tokensBody(t testing.TB, tokens oauthserver.Tokens, settings map[string]any) string {
	t.Helper()
	body, err := json.Marshal(map[string]any{
		"credentials": map[string]any{
			"access_token": tokens.AccessToken, "refresh_token": tokens.RefreshToken,
			"issued_at": tokens.IssuedAt.Format(time.RFC3339), "expires_in": int(tokens.Lifetime.Seconds()),
		},
		"settings": settings,
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// A connection is a connection in a response of the API.
type connection struct {
	ID         string         `json:"id"`
	ServiceID  string         `json:"service_id"`
	UnifiedAPI string         `json:"unified_api"`
	State      string         `json:"state"`
	Health     string         `json:"health"`
	AuthType   string         `json:"auth_type"`
	Settings   map[string]any `json:"settings"`
	Metadata   map[string]any `json:"metadata"`

	RefreshTokenExpiresAt int64 `json:"refresh_token_expires_at"`
}

func (a answer) connection(t testing.TB) connection {
	t.Helper()
	if a.status != http.StatusOK {
		t.Fatalf("the response is %v, want 200", a)
	}
	var body struct{ Data connection }
	a.decode(t, &body)
	return body.Data
}

// get requests a connection from the API.
func (p *process) get(t testing.TB, connector, consumer string) answer {
	t.Helper()
	return send(t, http.MethodGet, p.apiURL("/vault/connections/"+connector), p.deployment.apiHeader(consumer), "")
}

// call sends a request through the sidecar. path begins with the connector's.
func (p *process) call(t testing.TB, path, consumer string) answer {
	t.Helper()
	return send(t, http.MethodGet, p.sidecarURL(path), http.Header{"X-Apideck-Consumer-Id": {consumer}}, "")
}

// generationOf calls through the sidecar and returns the number of the token that downstream
// got.
func (p *process) generationOf(t testing.TB, path, consumer string) int {
	t.Helper()
	got := p.call(t, path, consumer)
	if got.status != http.StatusOK {
		t.Fatalf("a call through the sidecar = %v, want 200", got)
	}
	var body struct{ Generation int }
	got.decode(t, &body)
	return body.Generation
}

// tryCall is [process.call] for goroutines other than the test's.
func (p *process) tryCall(path, consumer string) (answer, error) {
	return get(p.sidecarURL(path), http.Header{"X-Apideck-Consumer-Id": {consumer}})
}

// ready returns nil if the process is ready.
func (p *process) ready() error {
	got, err := get(p.adminURL("/token_broker/health/ready"), http.Header{})
	if err == nil && got.status != http.StatusOK {
		err = fmt.Errorf("readiness is %d: %s", got.status, got.body)
	}
	return err
}

// An apiError is the body of an error.
type apiError struct {
	StatusCode int    `json:"status_code"`
	Error      string `json:"error"`
	TypeName   string `json:"type_name"`
	Message    string `json:"message"`
	Detail     any    `json:"detail"`
	Ref        string `json:"ref"`
}

// wantError checks that the response is an error of the token broker, and returns it.
func (a answer) wantError(t testing.TB, status int, typeName string, inMessage ...string) apiError {
	t.Helper()
	if a.status != status {
		t.Fatalf("the response is %v, want %d %s", a, status, typeName)
	}
	var body apiError
	a.decode(t, &body)
	if body.TypeName != typeName || body.StatusCode != status || body.Error != http.StatusText(status) || body.Ref == "" {
		t.Errorf("the error is %v, want type_name %s", a, typeName)
	}
	if got := a.header.Values("X-Token-Broker-Error"); !slices.Equal(got, []string{typeName}) {
		t.Errorf("X-Token-Broker-Error is %q, want %s", got, typeName)
	}
	for _, part := range inMessage {
		if !strings.Contains(body.Message, part) {
			t.Errorf("the message %q does not contain %q", body.Message, part)
		}
	}
	return body
}
