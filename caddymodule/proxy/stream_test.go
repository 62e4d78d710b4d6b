package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/caddymodule/internal/caddytest"
)

func TestProxyPassesEachEventOnAsItComes(t *testing.T) {
	next := make(chan string)
	d := caddytest.NewDownstream(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		rc := http.NewResponseController(w)
		_ = rc.Flush()
		for event := range next {
			fmt.Fprintf(w, "data: %s\n\n", event)
			_ = rc.Flush()
		}
	})
	srv, _ := d.Serve(t, "")
	resp := caddytest.RoundTrip(t, caddytest.NewCall(t.Context(), t, srv, "GET", d.URL, nil)) // the header has arrived, no event yet
	events := bufio.NewReader(resp.Body)
	for i := range 3 {
		next <- strconv.Itoa(i)
		line, err := events.ReadString('\n')
		if err != nil || line != fmt.Sprintf("data: %d\n", i) {
			t.Fatalf("got %q, %v", line, err)
		}
		_, _ = events.ReadString('\n')
	}
	close(next)
	if rest, err := io.ReadAll(events); err != nil || len(rest) > 0 {
		t.Errorf("got %q, %v at the end", rest, err)
	}
}

func TestProxyPassesABodyOnWhileItComes(t *testing.T) {
	d := caddytest.NewDownstream(t, func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		_ = rc.EnableFullDuplex()
		_ = rc.Flush()
		lines := bufio.NewReader(r.Body)
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				return
			}
			fmt.Fprintf(w, "echo %s", line)
			_ = rc.Flush()
		}
	})
	srv, _ := d.Serve(t, "")
	body, caller := io.Pipe()
	resp := caddytest.RoundTrip(t, caddytest.NewCall(t.Context(), t, srv, "POST", d.URL, body))
	answers := bufio.NewReader(resp.Body)
	for i := range 3 {
		fmt.Fprintf(caller, "%d\n", i)
		if line, err := answers.ReadString('\n'); err != nil || line != fmt.Sprintf("echo %d\n", i) {
			t.Fatalf("got %q, %v", line, err)
		}
	}
	_ = caller.Close()
	if rest, err := io.ReadAll(answers); err != nil || len(rest) > 0 {
		t.Errorf("got %q, %v at the end", rest, err)
	}
}

// TestProxySpeaksHTTP2 streams in both directions at once, with trailers.
func TestProxySpeaksHTTP2(t *testing.T) {
	d := caddytest.NewDownstream(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		w.Header().Set("X-Proto", r.Proto)
		w.Header().Set("X-Echo", r.Header.Get("Authorization"))
		_ = http.NewResponseController(w).Flush()
		line, _ := bufio.NewReader(r.Body).ReadString('\n')
		fmt.Fprint(w, line)
		w.Header().Set("X-Sum", fmt.Sprint(r.Trailer, r.Header.Get("Connection"), r.Header.Get("Te")))
	})
	d.CloseClientConnections()
	h2 := httptest.NewUnstartedServer(d.Config.Handler)
	h2.EnableHTTP2 = true
	h2.TLS = &tls.Config{Certificates: d.TLS.Certificates}
	h2.StartTLS()
	t.Cleanup(h2.Close)
	d.Server = h2
	srv, _ := d.Serve(t, "")
	body, caller := io.Pipe()
	req := caddytest.NewCall(t.Context(), t, srv, "POST", d.URL, body, "Te", "trailers", "Connection", "te, x-hop", "X-Hop", "1")
	req.Trailer = http.Header{"X-Own": {"1"}}
	resp := caddytest.RoundTrip(t, req)
	if proto := resp.Header.Get("X-Proto"); proto != "HTTP/2.0" || strings.Contains(fmt.Sprint(resp.Header), "canary") {
		t.Errorf("downstream was asked by %s, and answered %v", proto, resp.Header)
	}
	fmt.Fprintln(caller, "hello")
	_ = caller.Close()
	if got := caddytest.ReadAll(t, resp); got != "hello\n" {
		t.Errorf("got %q", got)
	}
	if got := resp.Trailer.Get("X-Sum"); !strings.Contains(got, "trailers") {
		t.Errorf("got the trailers %v", resp.Trailer)
	}
	// A WebSocket needs HTTP/1.1.
	resp = caddytest.RoundTrip(t, caddytest.NewCall(t.Context(), t, srv, "GET", d.URL, nil, "Connection", "Upgrade", "Upgrade", "websocket"))
	if proto := resp.Header.Get("X-Proto"); proto != "HTTP/1.1" {
		t.Errorf("a WebSocket was asked for by %s", proto)
	}
}

func TestProxyAnswersBeforeTheBodyHasCome(t *testing.T) {
	d := caddytest.NewDownstream(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		if r.URL.Path == "/answer" {
			w.WriteHeader(http.StatusRequestEntityTooLarge)
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
	})
	srv, _ := d.Serve(t, "")
	for path, want := range map[string]int{"/answer": http.StatusRequestEntityTooLarge, "/wait": http.StatusGatewayTimeout} {
		body, caller := io.Pipe() // never ends
		t.Cleanup(func() { _ = caller.Close() })
		go func() { _, _ = caller.Write([]byte("begin")) }()
		ctx, cancel := context.WithTimeout(t.Context(), caddytest.Deadline)
		t.Cleanup(cancel)
		resp := caddytest.RoundTrip(t, caddytest.NewCall(ctx, t, srv, "POST", d.URL+path, body, "X-Apideck-Timeout", "500"))
		if resp.StatusCode != want || !resp.Close {
			t.Errorf("%s: got status %d, want %d, and that the connection ends: %v", path, resp.StatusCode, want, resp.Header)
		}
		_ = caller.Close()
	}
}

func TestProxySendsTrailersBothWays(t *testing.T) {
	d := caddytest.NewDownstream(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Sum, X-Echo")
		_, _ = io.Copy(w, r.Body)
		w.Header().Set("X-Sum", fmt.Sprint(r.Trailer))
		w.Header().Set("X-Echo", r.Header.Get("Authorization"))
		w.Header().Set(http.TrailerPrefix+"X-Late", "1")
		w.Header().Set(http.TrailerPrefix+"X-Token-Broker-Error", "Forged")
		w.Header().Set(http.TrailerPrefix+"X-Apideck-Downstream-Error", "false")
	})
	srv, _ := d.Serve(t, "")
	req := caddytest.NewCall(t.Context(), t, srv, "POST", d.URL, io.LimitReader(strings.NewReader("hello"), 5))
	req.Trailer = http.Header{"X-Own": {"1"}, "Authorization": {"Bearer forged"}, "X-Apideck-Service-Id": {"x"}}
	resp := caddytest.RoundTrip(t, req)
	if got := caddytest.ReadAll(t, resp); got != "hello" {
		t.Errorf("got %q", got)
	}
	if got := resp.Trailer.Get("X-Sum"); got != "map[X-Own:[1]]" {
		t.Errorf("downstream got the trailers %s", got)
	}
	if got := resp.Trailer.Get("X-Late"); got != "1" {
		t.Errorf("a trailer that was not announced is %q", got)
	}
	if all := fmt.Sprint(resp.Trailer); strings.Contains(all, "canary") || strings.Contains(all, "Forged") || strings.Contains(all, "Apideck") {
		t.Errorf("got %s", all)
	}
}

func TestProxyHandsEarlyHintsOn(t *testing.T) {
	d := caddytest.NewDownstream(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</style.css>")
		w.Header().Set("X-Echo", r.Header.Get("Authorization"))
		w.Header().Set("X-Apideck-Request-Id", "forged")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Del("Link")
		w.WriteHeader(http.StatusOK)
	})
	srv, _ := d.Serve(t, "")
	var early []string
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
		early = append(early, fmt.Sprint(code, header))
		return nil
	}})
	resp := caddytest.RoundTrip(t, caddytest.NewCall(ctx, t, srv, "GET", d.URL, nil))
	if resp.Header.Get("Link") != "" || resp.Header.Get("X-Apideck-Request-Id") == "forged" {
		t.Errorf("got %v", resp.Header)
	}
	if len(early) != 1 || !strings.Contains(early[0], "style.css") || strings.Contains(early[0], "canary") || strings.Contains(early[0], "forged") {
		t.Errorf("got %v", early)
	}
}

func TestProxyWaitsForDownstreamsContinue(t *testing.T) {
	d := caddytest.NewDownstream(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/refuse" {
			w.WriteHeader(http.StatusExpectationFailed)
			return
		}
		_, _ = io.Copy(w, r.Body)
	})
	srv, _ := d.Serve(t, "")
	for path, want := range map[string]int{"/take": 200, "/refuse": 417} {
		body := &countingReader{Reader: strings.NewReader(strings.Repeat("x", 1<<20))}
		req := caddytest.NewCall(t.Context(), t, srv, "POST", d.URL+path, body, "Expect", "100-continue")
		req.ContentLength, req.Close = 1<<20, true // otherwise the client sends the body to keep the connection
		resp, err := (&http.Transport{ExpectContinueTimeout: time.Hour}).RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		n, _ := io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != want || (n == 1<<20) != (want == 200) {
			t.Errorf("%s: got status %d with %d bytes", path, resp.StatusCode, n)
		}
		if want != 200 && body.n > 0 {
			t.Errorf("%s: %d bytes of the body were asked for", path, body.n)
		}
	}
}

type countingReader struct {
	io.Reader
	n int
}

func (r *countingReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.n += n
	return n, err
}

func TestProxyAnswersHeadWithoutABody(t *testing.T) {
	d := caddytest.NewDownstream(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "5")
		fmt.Fprint(w, "hello")
	})
	srv, _ := d.Serve(t, "")
	for _, tt := range []struct {
		method, header, length, body string
	}{{"HEAD", "", "5", ""}, {"HEAD", "GET", "5", ""}, {"GET", "HEAD", "0", ""}, {"GET", "", "5", "hello"}} {
		resp := caddytest.RoundTrip(t, caddytest.NewCall(t.Context(), t, srv, tt.method, d.URL, nil, "X-Apideck-Downstream-Method", tt.header))
		if got := caddytest.ReadAll(t, resp); resp.StatusCode != http.StatusOK || got != tt.body || resp.Header.Get("Content-Length") != tt.length {
			t.Errorf("%v: got status %d, length %s: %q", tt, resp.StatusCode, resp.Header.Get("Content-Length"), got)
		}
	}
}
