package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/caddymodule/exchange"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/internal/caddytest"
)

func TestProxyCarriesAWebSocket(t *testing.T) {
	d := caddytest.NewDownstream(t, caddytest.EchoUpgrade)
	srv, _ := d.Serve(t, "")
	conn, resp, buffered := upgraded(t, srv, d.URL)
	if resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Upgrade") != "websocket" || resp.Header.Get("Sec-Websocket-Accept") != "x" {
		t.Fatalf("got status %d with %v", resp.StatusCode, resp.Header)
	}
	if strings.Contains(fmt.Sprint(resp.Header), "canary") {
		t.Errorf("got %v", resp.Header)
	}
	for i := range 3 {
		fmt.Fprintf(conn, "%d\n", i)
		if line, err := buffered.ReadString('\n'); err != nil || line != fmt.Sprintf("echo %d\n", i) {
			t.Fatalf("got %q, %v", line, err)
		}
	}
	// One side closes its direction; the other may still send.
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(buffered); err != nil || string(rest) != "bye\n" {
		t.Errorf("got %q, %v at the end", rest, err)
	}
}

func TestProxyEndsWebSocketsWithTheirConfiguration(t *testing.T) {
	d := caddytest.NewDownstream(t, caddytest.EchoUpgrade)
	srv, _ := d.Serve(t, "")
	conn, _, buffered := upgraded(t, srv, d.URL)
	fmt.Fprintln(conn, "1")
	if _, err := buffered.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if err := caddytest.Load(t, "{\nadmin off\n}"); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(buffered); err != nil || string(rest) != string(exchange.GoingAway) {
		t.Errorf("got %q, %v", rest, err)
	}
}

func TestProxyDoesNotSwitchToWhatWasNotAskedFor(t *testing.T) {
	d := caddytest.NewDownstream(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			t.Errorf("downstream was asked for %s", r.Header.Get("Upgrade"))
		}
	})
	srv, _ := d.Serve(t, "")
	for _, upgrade := range []string{"h2c", "websocket, h2c", "foo", "TLS/1.0"} {
		resp := caddytest.RoundTrip(t, caddytest.NewCall(t.Context(), t, srv, "GET", d.URL, nil, "Connection", "Upgrade", "Upgrade", upgrade))
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s: got status %d", upgrade, resp.StatusCode)
		}
	}
}

// upgraded opens a WebSocket to url through the proxy.
func upgraded(t *testing.T, srv *httptest.Server, url string) (net.Conn, *http.Response, *bufio.Reader) {
	t.Helper()
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(caddytest.Deadline))
	req := caddytest.NewCall(t.Context(), t, srv, "GET", url, nil, "Connection", "Upgrade", "Upgrade", "WebSocket",
		"Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version", "13")
	if err := req.Write(conn); err != nil {
		t.Fatal(err)
	}
	buffered := bufio.NewReader(conn)
	resp, err := http.ReadResponse(buffered, req)
	if err != nil {
		t.Fatal(err)
	}
	return conn, resp, buffered
}
