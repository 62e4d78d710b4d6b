package tests

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/tests/oauthserver"
)

// answersDir has the answers of token endpoints, one a file: what they say and what it must lead
// to. The tests of package tokenendpoint explain the members.
const answersDir = "broker/internal/tokenendpoint/testdata/answers"

// An endpointAnswer is one of the files.
type endpointAnswer struct {
	Status  int
	Headers map[string]string
	Body    json.RawMessage
	Coding  string

	Answer              map[string]string
	PermanentErrors     []string `json:"permanent_errors"`
	ConfigurationErrors []string `json:"configuration_errors"`
	TransientErrors     []string `json:"transient_errors"`
	EarlyErrors         []string `json:"early_errors"`

	Want struct {
		Class, Code, Detail string
		AccessToken         string `json:"access_token"`
		RefreshToken        string `json:"refresh_token"`
		RetryAfter          string `json:"retry_after"`
		RefreshLifetime     string `json:"refresh_lifetime"`
	}
}

// connector returns the block of a connector whose token endpoint answers like that.
func (a *endpointAnswer) connector(name, server, clientSecret string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "connector crm/%s {\nauth_type oauth2\ntoken_url %s/token/%s\nbase_url %s\nauth_style params\nallow_private\n", name, server, name, server)
	fmt.Fprintf(&b, "client_id %s\nclient_secret %s\n", oauthserver.ClientID, clientSecret)
	for member, path := range a.Answer {
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
func (a *endpointAnswer) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	body := a.body()
	w.Header()["Content-Type"] = nil // not what net/http would make of the body
	if strings.HasPrefix(string(body), "{") {
		w.Header().Set("Content-Type", "application/json")
	}
	for name, value := range a.Headers {
		w.Header().Set(name, withTimes(value))
	}
	var coded bytes.Buffer
	var coder io.WriteCloser
	switch a.Coding {
	case "gzip":
		coder = gzip.NewWriter(&coded)
	case "deflate":
		coder = zlib.NewWriter(&coded)
	}
	if coder != nil {
		w.Header().Set("Content-Encoding", a.Coding)
		_, _ = coder.Write(body)
		_ = coder.Close()
		body = coded.Bytes()
	}
	w.WriteHeader(a.Status)
	_, _ = w.Write(body)
}

var timeInAnswer = regexp.MustCompile(`@(unix|unix_ms|http|rfc3339)\+([0-9]+)@`)

// withTimes returns a text with the times in it.
func withTimes(text string) string {
	return timeInAnswer.ReplaceAllStringFunc(text, func(s string) string {
		match := timeInAnswer.FindStringSubmatch(s)
		seconds, _ := strconv.Atoi(match[2])
		switch at := time.Now().Add(time.Duration(seconds) * time.Second).UTC(); match[1] {
		case "unix":
			return strconv.FormatInt(at.Unix(), 10)
		case "unix_ms":
			return strconv.FormatInt(at.UnixMilli(), 10)
		case "http":
			return at.Format(http.TimeFormat)
		default:
			return at.Format(time.RFC3339)
		}
	})
}

func (a *endpointAnswer) body() []byte {
	var text string
	if json.Unmarshal(a.Body, &text) != nil {
		return a.Body
	}
	return []byte(withTimes(text))
}

// readAnswers returns the files by name.
func readAnswers(t *testing.T) map[string]*endpointAnswer {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(root, answersDir, "*.json"))
	if err != nil || len(paths) < 100 {
		t.Fatalf("got %d files, %v", len(paths), err)
	}
	answers := make(map[string]*endpointAnswer, len(paths))
	for _, path := range paths {
		a := &endpointAnswer{}
		if err := json.Unmarshal([]byte(readFile(t, path)), a); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		answers[strings.TrimSuffix(filepath.Base(path), ".json")] = a
	}
	return answers
}

// A recordedEndpoint has the token endpoint of each answer, and the API.
type recordedEndpoint struct {
	answers map[string]*endpointAnswer
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
	endpoint := &recordedEndpoint{answers: readAnswers(t), sent: make(map[string][]string)}
	server := httptest.NewServer(endpoint)
	t.Cleanup(server.Close)
	d := newDeployment(t, oauthserver.Config{}).onDisk()
	failed := 0
	for name, a := range endpoint.answers {
		d.broker += a.connector(name, server.URL, d.secretFile(t, "client-secret", d.clientSecret))
		if a.Want.Class == "permanent" || a.Want.Class == "configuration" {
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
func (a *endpointAnswer) check(t *testing.T, p *process, endpoint *recordedEndpoint, name, api string) {
	p.importBody(t, "crm/"+name, consumer, fmt.Sprintf(`{"credentials":{"access_token":"a1","refresh_token":"the-refresh-token","issued_at":%q,"expires_in":60}}`,
		time.Now().Add(-time.Hour).UTC().Format(time.RFC3339))).connection(t)
	got := callAnswered(t, p, name, api+"/things")
	switch a.Want.Class {
	case "":
		if string(got.body) != "Bearer "+a.Want.AccessToken || got.status != http.StatusOK {
			t.Errorf("the call = %v, want downstream to get %s", got, a.Want.AccessToken)
		}
	case "permanent":
		body := got.wantError(t, http.StatusUnauthorized, "UnauthorizedError")
		detail, _ := body.Detail.(map[string]any)
		debug, _ := detail["debug"].(map[string]any)
		if debug["code"] != a.Want.Code || a.Want.Detail != "" && debug["detail"] != a.Want.Detail {
			t.Errorf("the debug is %v, want code %s, detail %s", debug, a.Want.Code, a.Want.Detail)
		}
	default:
		got.wantError(t, http.StatusServiceUnavailable, "ServiceUnavailableError", "("+a.Want.Class+": ", a.Want.Code, a.Want.Detail)
		wait, err := strconv.Atoi(got.header.Get("Retry-After"))
		if least, _ := time.ParseDuration(a.Want.RetryAfter); err != nil || time.Duration(wait)*time.Second < least-waitTimeout {
			t.Errorf("Retry-After is %s, want about %s", got.header.Get("Retry-After"), a.Want.RetryAfter)
		}
	}
	a.checkRefreshToken(t, p, endpoint, name, api)
	if a.Want.RefreshLifetime == "" {
		return
	}
	lifetime, err := time.ParseDuration(a.Want.RefreshLifetime)
	if got := time.Until(time.UnixMilli(p.get(t, "crm/"+name, consumer).connection(t).RefreshTokenExpiresAt)); err != nil || (got-lifetime).Abs() > waitTimeout {
		t.Errorf("the refresh token lapses in %v, want %s", got, a.Want.RefreshLifetime)
	}
}

func callAnswered(t *testing.T, p *process, name, target string) answer {
	t.Helper()
	return sendProxied(t, p.proxied(t.Context(), t, http.MethodGet, "", target, nil, "X-Apideck-Unified-Api", "crm", "X-Apideck-Service-Id", name))
}

// checkRefreshToken checks which refresh token the next request has.
func (a *endpointAnswer) checkRefreshToken(t *testing.T, p *process, endpoint *recordedEndpoint, name, api string) {
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
