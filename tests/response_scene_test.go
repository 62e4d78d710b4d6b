package tests

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/tests/oauthserver"
)

// A responseScene is a process with a service whose responses are the test's. The transport
// shares the listener of the API, which is the harder case: both, and the connections API, are
// one origin.
type responseScene struct {
	*process
	service *httptest.Server

	mu     sync.Mutex
	answer http.HandlerFunc // guarded by mu
}

// sceneKey is the credential of the scene's connections.
const sceneKey = "sk/live+the-key"

// asked is a connector like stream whose credential is in the query.
const asked = "file-storage/asked"

func newResponseScene(t *testing.T) *responseScene {
	t.Helper()
	s := &responseScene{}
	d := newDeployment(t, oauthserver.Config{}).onDisk()
	s.service = d.withService(t, func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		answer := s.answer
		s.mu.Unlock()
		answer(w, r)
	})
	d.broker += fmt.Sprintf("connector %s {\nauth_type apiKey\nbase_url %s\ninject query api_key\nallow_private\n}\n", asked, s.service.URL)
	for prefix, transport := range map[string]string{
		"/header": stream, "/query": asked, "/open": stream + " {\napp " + application + "\n}",
		"/fixed":      stream + " {\napp " + application + "\nconsumer " + consumer + "\n}",
		"/by-address": stream + " {\napp " + application + "\nconsumer {http.request.remote.host}\n}",
	} {
		d.site += fmt.Sprintf("handle_path %s/* {\nreverse_proxy %s {\ntransport token_broker %s\n}\n}\n", prefix, s.service.URL, transport)
	}
	s.process = d.start(t)
	s.connect(t, stream, consumer)
	s.connect(t, asked, consumer)
	return s
}

func (s *responseScene) connect(t *testing.T, connector, consumer string) {
	t.Helper()
	s.importBody(t, connector, consumer, fmt.Sprintf(`{"settings": {"api_key": %q}}`, sceneKey)).connection(t)
}

// answers sets how the service answers from now on.
func (s *responseScene) answers(answer http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

// sends lets the service answer with a status and fields, "Name: value".
func (s *responseScene) sends(status int, fields ...string) {
	s.answers(func(w http.ResponseWriter, _ *http.Request) {
		for _, field := range fields {
			name, value, _ := strings.Cut(field, ": ")
			w.Header().Add(name, value)
		}
		w.WriteHeader(status)
	})
}

// A side is one of the two ways to the service.
type side struct {
	name    string
	isProxy bool
}

var bothSides = []side{{"Proxy API", true}, {"transport", false}}

// request returns a caller's request to the service. connector is stream or asked.
func (s *responseScene) request(t *testing.T, by side, method, connector, below string) *http.Request {
	t.Helper()
	target := s.apiURL(map[string]string{stream: "/header", asked: "/query"}[connector] + below)
	if by.isProxy {
		target = s.apiURL("/proxy")
	}
	req, err := http.NewRequestWithContext(t.Context(), method, target, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = s.deployment.apiHeader(consumer)
	if by.isProxy {
		req.Header.Set("X-Apideck-Service-Id", strings.TrimPrefix(connector, "file-storage/"))
		req.Header.Set("X-Apideck-Downstream-Url", s.service.URL+below)
	}
	return req
}

// fetch sends a request and returns the response without following redirects.
func (s *responseScene) fetch(t *testing.T, by side, method, connector, below string) *http.Response {
	t.Helper()
	resp, err := client.Do(s.request(t, by, method, connector, below))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	return resp
}

// raw sends a request in the given version of HTTP, and returns everything that comes back.
func (s *responseScene) raw(t *testing.T, by side, version string, lines ...string) string {
	t.Helper()
	conn, _ := s.dial(t, by, version, lines...)
	defer func() { _ = conn.Close() }()
	var b strings.Builder
	_, _ = bufio.NewReader(conn).WriteTo(&b)
	return b.String()
}

// dial sends a GET request and returns the connection.
func (s *responseScene) dial(t *testing.T, by side, version string, lines ...string) (net.Conn, *bufio.Reader) {
	t.Helper()
	req := s.request(t, by, http.MethodGet, stream, "/x")
	conn, err := net.Dial("tcp", req.URL.Host)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(waitTimeout))
	for name, values := range req.Header {
		lines = append(lines, name+": "+values[0])
	}
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/%s\r\nHost: %s\r\n%s\r\n\r\n", req.URL.Path, version, req.URL.Host, strings.Join(lines, "\r\n")); err != nil {
		t.Fatal(err)
	}
	return conn, bufio.NewReader(conn)
}

// hostOf returns the host and port of a URL.
func hostOf(t *testing.T, s string) string {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u.Host
}
