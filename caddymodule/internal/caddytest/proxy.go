package caddytest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// Deadline is for what should happen soon, even on a busy machine.
const Deadline = 30 * time.Second

// Forward returns a Caddyfile with the Proxy API, the connector crm/acme, whose service is d,
// and further connectors.
func (d *Downstream) Forward(t testing.TB, options string, connectors ...string) (caddyfile, log string) {
	t.Helper()
	connectors = append([]string{ConnectorLines("crm/acme", d.URL, "allow_private")}, connectors...)
	globals, log := Globals(t, BrokerLines(t, t.TempDir(), connectors...))
	return globals + fmt.Sprintf("http:// {\nlog\nconnections_api\ndownstream_proxy {\ntls_trust_pool file {\npem_file %s\n}\n%s\n}\n}", d.CA, options), log
}

// Call returns the headers of a request to the Proxy API.
func Call(url string, more ...string) []string {
	return Caller(append([]string{"X-Apideck-Service-Id", "acme", "X-Apideck-Downstream-Url", url}, more...)...)
}

// Serve runs the Proxy API for d on a server of its own, with a connection of the consumer
// jane.
func (d *Downstream) Serve(t *testing.T, options string) (srv *httptest.Server, log string) {
	t.Helper()
	caddyfile, log := d.Forward(t, options)
	handler := Run(t, caddyfile)
	ImportToken(t, handler, "crm/acme", "canary-access")
	srv = httptest.NewServer(handler)
	t.Cleanup(srv.Close)
	return srv, log
}

// NewCall returns a request to the Proxy API of a server.
func NewCall(ctx context.Context, t *testing.T, srv *httptest.Server, method, url string, body io.Reader, more ...string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, srv.URL+"/proxy", body)
	if err != nil {
		t.Fatal(err)
	}
	header := Call(url, more...)
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	return req
}

// RoundTrip sends a request over a connection of its own, without following redirects.
func RoundTrip(t *testing.T, req *http.Request) *http.Response {
	t.Helper()
	transport := &http.Transport{DisableCompression: true}
	t.Cleanup(transport.CloseIdleConnections)
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	return resp
}

// Soon fails the test unless what is closed before the deadline.
func Soon(t *testing.T, what <-chan struct{}, name string) {
	t.Helper()
	select {
	case <-what:
	case <-time.After(Deadline):
		t.Fatalf("%s did not happen", name)
	}
}

// EchoUpgrade switches to WebSocket and echoes lines.
func EchoUpgrade(w http.ResponseWriter, r *http.Request) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\nX-Echo: %s\r\n\r\n",
		r.Header.Get("Authorization"))
	for {
		line, err := buffered.ReadString('\n')
		if errors.Is(err, io.EOF) {
			fmt.Fprintln(conn, "bye")
			return
		}
		if err != nil {
			return
		}
		fmt.Fprintf(conn, "echo %s", line)
	}
}

// OnlyRenewed echoes the body of requests with the token "renewed", and answers 401 to
// others.
func OnlyRenewed(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	if r.Header.Get("Authorization") != "Bearer renewed" {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	_, _ = w.Write(body)
}
