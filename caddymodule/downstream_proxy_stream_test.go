package caddymodule

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strconv"
	"strings"
	"testing"
	"time"
)

// deadline is for what should happen soon, on a machine that is busy.
const deadline = 10 * time.Second

// serve runs the Proxy API in front of the downstream on a port of its own, with a
// connection of the consumer jane.
func (d *downstream) serve(t *testing.T, options string) (srv *httptest.Server, log string) {
	t.Helper()
	caddyfile, log := d.forward(t, options)
	handler := run(t, caddyfile)
	importToken(t, handler, "crm/acme", "canary-access")
	srv = httptest.NewServer(handler)
	t.Cleanup(srv.Close)
	return srv, log
}

// newCall returns a call to the Proxy API that goes over the network.
func newCall(ctx context.Context, t *testing.T, srv *httptest.Server, method, url string, body io.Reader, more ...string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, srv.URL+"/proxy", body)
	if err != nil {
		t.Fatal(err)
	}
	header := call(url, more...)
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	return req
}

func roundTrip(t *testing.T, req *http.Request) *http.Response {
	t.Helper()
	resp, err := (&http.Transport{DisableKeepAlives: true, DisableCompression: true}).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	return resp
}

// soon fails the test if what is not closed in time.
func soon(t *testing.T, what <-chan struct{}, name string) {
	t.Helper()
	select {
	case <-what:
	case <-time.After(deadline):
		t.Fatalf("%s did not happen", name)
	}
}

func TestProxyPassesEachEventOnAsItComes(t *testing.T) {
	next := make(chan string)
	d := newDownstream(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		rc := http.NewResponseController(w)
		_ = rc.Flush()
		for event := range next {
			fmt.Fprintf(w, "data: %s\n\n", event)
			_ = rc.Flush()
		}
	})
	srv, _ := d.serve(t, "")
	resp := roundTrip(t, newCall(t.Context(), t, srv, "GET", d.URL, nil)) // the header has come, and no event yet
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
	d := newDownstream(t, func(w http.ResponseWriter, r *http.Request) {
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
	srv, _ := d.serve(t, "")
	body, caller := io.Pipe()
	resp := roundTrip(t, newCall(t.Context(), t, srv, "POST", d.URL, body))
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

// TestProxySpeaksHTTP2 has both ways at once again, with trailers.
func TestProxySpeaksHTTP2(t *testing.T) {
	d := newDownstream(t, func(w http.ResponseWriter, r *http.Request) {
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
	srv, _ := d.serve(t, "")
	body, caller := io.Pipe()
	req := newCall(t.Context(), t, srv, "POST", d.URL, body, "Te", "trailers", "Connection", "te, x-hop", "X-Hop", "1")
	req.Trailer = http.Header{"X-Own": {"1"}}
	resp := roundTrip(t, req)
	if proto := resp.Header.Get("X-Proto"); proto != "HTTP/2.0" || strings.Contains(fmt.Sprint(resp.Header), "canary") {
		t.Errorf("downstream was asked by %s, and answered %v", proto, resp.Header)
	}
	fmt.Fprintln(caller, "hello")
	_ = caller.Close()
	if got := readAll(t, resp); got != "hello\n" {
		t.Errorf("got %q", got)
	}
	if got := resp.Trailer.Get("X-Sum"); !strings.Contains(got, "trailers") {
		t.Errorf("got the trailers %v", resp.Trailer)
	}
	// A WebSocket takes HTTP/1.1, and gets it.
	resp = roundTrip(t, newCall(t.Context(), t, srv, "GET", d.URL, nil, "Connection", "Upgrade", "Upgrade", "websocket"))
	if proto := resp.Header.Get("X-Proto"); proto != "HTTP/1.1" {
		t.Errorf("a WebSocket was asked for by %s", proto)
	}
}

func TestProxyAnswersBeforeTheBodyHasCome(t *testing.T) {
	d := newDownstream(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		if r.URL.Path == "/answer" {
			w.WriteHeader(http.StatusRequestEntityTooLarge)
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
	})
	srv, _ := d.serve(t, "")
	for path, want := range map[string]int{"/answer": http.StatusRequestEntityTooLarge, "/wait": http.StatusGatewayTimeout} {
		body, caller := io.Pipe() // which never ends
		t.Cleanup(func() { _ = caller.Close() })
		go func() { _, _ = caller.Write([]byte("begin")) }()
		ctx, cancel := context.WithTimeout(t.Context(), deadline)
		t.Cleanup(cancel)
		resp := roundTrip(t, newCall(ctx, t, srv, "POST", d.URL+path, body, "X-Apideck-Timeout", "500"))
		if resp.StatusCode != want {
			t.Errorf("%s: got status %d, want %d", path, resp.StatusCode, want)
		}
	}
}

func TestProxyGoesOnIfTheBodyTakesLongerThanTheTimeout(t *testing.T) {
	d := newDownstream(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
	srv, _ := d.serve(t, "")
	body, caller := io.Pipe()
	go func() {
		defer caller.Close()
		for range 8 {
			_, _ = caller.Write([]byte("x"))
			time.Sleep(200 * time.Millisecond) // the caller's network, not a wait for anything
		}
	}()
	resp := roundTrip(t, newCall(t.Context(), t, srv, "POST", d.URL, body, "X-Apideck-Timeout", "1000"))
	if got := readAll(t, resp); resp.StatusCode != http.StatusOK || got != "xxxxxxxx" {
		t.Errorf("got status %d: %s", resp.StatusCode, got)
	}
}

func TestProxyTimesOut(t *testing.T) {
	gone := make(chan struct{})
	d := newDownstream(t, func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hang" {
			<-r.Context().Done()
			close(gone)
		}
	})
	srv, _ := d.serve(t, "")
	roundTrip(t, newCall(t.Context(), t, srv, "GET", d.URL, nil)) // so that there is a connection
	resp := roundTrip(t, newCall(t.Context(), t, srv, "GET", d.URL+"/hang", nil, "X-Apideck-Timeout", "500"))
	wantError(t, resp, http.StatusGatewayTimeout, "ProxyTimedOutError")
	if resp.Header.Get("X-Apideck-Request-Id") == "" || resp.Header.Get("X-Apideck-Downstream-Error") != "false" {
		t.Errorf("got %v", resp.Header)
	}
	soon(t, gone, "the end of the request downstream")
}

func TestProxyTimeoutEndsWithTheResponsesHeader(t *testing.T) {
	d := newDownstream(t, func(w http.ResponseWriter, _ *http.Request) {
		_ = http.NewResponseController(w).Flush()
		time.Sleep(1200 * time.Millisecond) // downstream's work, not a wait for anything
		fmt.Fprint(w, "late")
	})
	srv, _ := d.serve(t, "")
	resp := roundTrip(t, newCall(t.Context(), t, srv, "GET", d.URL, nil, "X-Apideck-Timeout", "1000"))
	if got := readAll(t, resp); got != "late" {
		t.Errorf("got %q", got)
	}
}

func TestProxyTimeoutThatMakesNoSenseIsTheDefault(t *testing.T) {
	h := &DownstreamProxy{}
	h.Timeout, h.MaxTimeout = 28e9, 120e9
	for value, want := range map[string]time.Duration{
		"": 28 * time.Second, "0": 28 * time.Second, "-1": 28 * time.Second, "x": 28 * time.Second, "1.5": 28 * time.Second,
		"1": time.Millisecond, " 30000 ": 30 * time.Second, "120001": 2 * time.Minute, "9223372036854775807": 2 * time.Minute,
		"99999999999999999999": 28 * time.Second,
	} {
		r := httptest.NewRequest(http.MethodGet, "/proxy", nil)
		r.Header.Set("X-Apideck-Timeout", value)
		if got := h.timeoutOf(r); got != want {
			t.Errorf("%q: got %v, want %v", value, got, want)
		}
	}
}

func TestProxyGivesUpWhenTheCallerDoes(t *testing.T) {
	begun, gone := make(chan struct{}), make(chan struct{})
	d := newDownstream(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "begin")
		_ = http.NewResponseController(w).Flush()
		close(begun)
		<-r.Context().Done()
		close(gone)
	})
	srv, _ := d.serve(t, "")
	ctx, cancel := context.WithCancel(t.Context())
	roundTrip(t, newCall(ctx, t, srv, "GET", d.URL, nil))
	soon(t, begun, "the beginning of the response")
	cancel()
	soon(t, gone, "the end of the request downstream")
}

func TestProxySendsTrailersBothWays(t *testing.T) {
	d := newDownstream(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Sum, X-Echo")
		_, _ = io.Copy(w, r.Body)
		w.Header().Set("X-Sum", fmt.Sprint(r.Trailer))
		w.Header().Set("X-Echo", r.Header.Get("Authorization"))
		w.Header().Set(http.TrailerPrefix+"X-Late", "1")
		w.Header().Set(http.TrailerPrefix+"X-Token-Broker-Error", "Forged")
		w.Header().Set(http.TrailerPrefix+"X-Apideck-Downstream-Error", "false")
	})
	srv, _ := d.serve(t, "")
	req := newCall(t.Context(), t, srv, "POST", d.URL, io.LimitReader(strings.NewReader("hello"), 5))
	req.Trailer = http.Header{"X-Own": {"1"}, "Authorization": {"Bearer forged"}, "X-Apideck-Service-Id": {"x"}}
	resp := roundTrip(t, req)
	if got := readAll(t, resp); got != "hello" {
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
	d := newDownstream(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</style.css>")
		w.Header().Set("X-Echo", r.Header.Get("Authorization"))
		w.Header().Set("X-Apideck-Request-Id", "forged")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Del("Link")
		w.WriteHeader(http.StatusOK)
	})
	srv, _ := d.serve(t, "")
	var early []string
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
		early = append(early, fmt.Sprint(code, header))
		return nil
	}})
	resp := roundTrip(t, newCall(ctx, t, srv, "GET", d.URL, nil))
	if resp.Header.Get("Link") != "" || resp.Header.Get("X-Apideck-Request-Id") == "forged" {
		t.Errorf("got %v", resp.Header)
	}
	if len(early) != 1 || !strings.Contains(early[0], "style.css") || strings.Contains(early[0], "canary") || strings.Contains(early[0], "forged") {
		t.Errorf("got %v", early)
	}
}

func TestProxyWaitsForDownstreamsContinue(t *testing.T) {
	d := newDownstream(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/refuse" {
			w.WriteHeader(http.StatusExpectationFailed)
			return
		}
		_, _ = io.Copy(w, r.Body)
	})
	srv, _ := d.serve(t, "")
	for path, want := range map[string]int{"/take": 200, "/refuse": 417} {
		body := &countingReader{Reader: strings.NewReader(strings.Repeat("x", 1<<20))}
		req := newCall(t.Context(), t, srv, "POST", d.URL+path, body, "Expect", "100-continue")
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

func TestProxyTellsATruncatedResponse(t *testing.T) {
	d := newDownstream(t, func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		_, _ = io.WriteString(conn, map[string]string{
			"/length":  "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
			"/chunked": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
		}[r.URL.Path])
		_ = conn.Close()
	})
	d.Server.EnableHTTP2 = false
	srv, _ := d.serve(t, "")
	for _, path := range []string{"/length", "/chunked"} {
		resp := roundTrip(t, newCall(t.Context(), t, srv, "GET", d.URL+path, nil))
		if got, err := io.ReadAll(resp.Body); err == nil {
			t.Errorf("%s: %q passes for the whole body", path, got)
		}
	}
}

// TestProxySurvivesHostileResponses has downstream write what no server of Go's would.
func TestProxySurvivesHostileResponses(t *testing.T) {
	d := newDownstream(t, func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		credential := r.Header.Get("Authorization")
		_, _ = io.WriteString(conn, strings.ReplaceAll(map[string]string{
			"/99":        "HTTP/1.1 099 Low\r\nContent-Length: 0\r\n\r\n",
			"/000":       "HTTP/1.1 000 Zero\r\nContent-Length: 0\r\n\r\n",
			"/101":       "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
			"/garbage":   "CREDENTIAL garbage\r\n\r\n",
			"/header":    "HTTP/1.1 200 OK\r\nCREDENTIAL\r\n\r\n",
			"/nothing":   "",
			"/many":      strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", 50) + "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
			"/long":      "HTTP/1.1 200 OK\r\nX-Long: " + strings.Repeat("x", 2<<20) + "\r\n\r\n",
			"/conflict":  "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
			"/smuggling": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, identity\r\n\r\nhello",
		}[r.URL.Path], "CREDENTIAL", credential))
		_ = conn.Close()
	})
	srv, log := d.serve(t, "")
	for _, path := range []string{"/99", "/000", "/101", "/garbage", "/header", "/nothing", "/many", "/long", "/conflict", "/smuggling"} {
		t.Run(path, func(t *testing.T) {
			resp := roundTrip(t, newCall(t.Context(), t, srv, "GET", d.URL+path, nil))
			wantError(t, resp, http.StatusBadGateway, "ConnectorExecutionError")
			if strings.Contains(fmt.Sprint(resp.Header), "canary") {
				t.Errorf("got %v", resp.Header)
			}
		})
	}
	if strings.Contains(logged(t, log), "canary") {
		t.Error("the log shows the credential")
	}
}

func TestProxyAnswersDownstreamsErrorsAsTheyAre(t *testing.T) {
	d := newDownstream(t, func(w http.ResponseWriter, r *http.Request) {
		for name, value := range map[string]string{
			"X-Token-Broker-Error": "Forged", "X-Token-Broker-Import": "stored", "X-Apideck-Request-Id": "forged", "X-Apideck-Whatever": "forged",
			"X-Apideck-Downstream-Error": "forged", "X-Downstream-Ratelimit-Limit": "forged", "Alt-Svc": `h3=":443"`, "Keep-Alive": "timeout=5",
			"Proxy-Authenticate": "Basic", "X-Hop": "1", "Connection": "x-hop", "X-Echo": r.Header.Get("Authorization"), "X-Own": "kept",
			"Location": "https://evil.test/?" + r.Header.Get("Authorization"), "Server": "acme",
		} {
			w.Header().Set(name, value)
		}
		w.WriteHeader(http.StatusTeapot)
		fmt.Fprint(w, "short and stout")
	})
	srv, _ := d.serve(t, "")
	resp := roundTrip(t, newCall(t.Context(), t, srv, "GET", d.URL, nil))
	if got := readAll(t, resp); resp.StatusCode != http.StatusTeapot || got != "short and stout" {
		t.Errorf("got status %d: %s", resp.StatusCode, got)
	}
	for name, want := range map[string]string{
		"X-Apideck-Downstream-Error": "true", "X-Own": "kept", "Server": "acme", "X-Token-Broker-Error": "", "X-Token-Broker-Import": "",
		"X-Apideck-Whatever": "", "X-Downstream-Ratelimit-Limit": "", "Alt-Svc": "", "Keep-Alive": "", "Proxy-Authenticate": "", "X-Hop": "",
	} {
		if got := resp.Header.Get(name); got != want {
			t.Errorf("got %s %q, want %q", name, got, want)
		}
	}
	if all := fmt.Sprint(resp.Header); strings.Contains(all, "canary") || strings.Contains(all, "forged") {
		t.Errorf("got %s", all)
	}
}

func TestProxyHandsRedirectsToTheCaller(t *testing.T) {
	d := newDownstream(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "https://evil.test/", http.StatusTemporaryRedirect)
	})
	srv, _ := d.serve(t, "")
	resp := roundTrip(t, newCall(t.Context(), t, srv, "POST", d.URL, strings.NewReader("body")))
	if resp.StatusCode != http.StatusTemporaryRedirect || resp.Header.Get("Location") != "https://evil.test/" {
		t.Errorf("got status %d with %v", resp.StatusCode, resp.Header)
	}
	d.request(t)
	d.wantNone(t)
}

func TestProxyAnswersHeadWithoutABody(t *testing.T) {
	d := newDownstream(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "5")
		fmt.Fprint(w, "hello")
	})
	srv, _ := d.serve(t, "")
	for _, tt := range []struct {
		method, header, length, body string
	}{{"HEAD", "", "5", ""}, {"HEAD", "GET", "5", ""}, {"GET", "HEAD", "0", ""}, {"GET", "", "5", "hello"}} {
		resp := roundTrip(t, newCall(t.Context(), t, srv, tt.method, d.URL, nil, "X-Apideck-Downstream-Method", tt.header))
		if got := readAll(t, resp); resp.StatusCode != http.StatusOK || got != tt.body || resp.Header.Get("Content-Length") != tt.length {
			t.Errorf("%v: got status %d, length %s: %q", tt, resp.StatusCode, resp.Header.Get("Content-Length"), got)
		}
	}
}

func TestProxySaysThatDownstreamIsOutOfReach(t *testing.T) {
	d := newDownstream(t, ok)
	srv, _ := d.serve(t, "")
	d.Close()
	resp := roundTrip(t, newCall(t.Context(), t, srv, "GET", d.URL, nil))
	wantError(t, resp, http.StatusBadGateway, "ConnectorExecutionError")
}

func TestProxyDoesNotTrustStrangers(t *testing.T) {
	d := newDownstream(t, ok)
	stranger := httptest.NewUnstartedServer(http.HandlerFunc(ok))
	stranger.TLS = &tls.Config{Certificates: []tls.Certificate{selfSigned(t)}}
	stranger.StartTLS()
	t.Cleanup(stranger.Close)
	caddyfile, _ := d.forward(t, "", connectorLines("crm/stranger", stranger.URL, "allow_private"))
	handler := run(t, caddyfile)
	importToken(t, handler, "crm/stranger", "access-1")
	resp := do(t, handler, "GET", "http://broker/proxy", "", caller("X-Apideck-Service-Id", "stranger", "X-Apideck-Downstream-Url", stranger.URL)...)
	wantError(t, resp, http.StatusBadGateway, "ConnectorExecutionError")
}

func TestProxyBodyThatCannotBeReadIsTheCallersFault(t *testing.T) {
	d := newDownstream(t, func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
	srv, _ := d.serve(t, "")
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var head strings.Builder
	header := call(d.URL)
	for i := 0; i < len(header); i += 2 {
		fmt.Fprintf(&head, "%s: %s\r\n", header[i], header[i+1])
	}
	fmt.Fprintf(conn, "POST /proxy HTTP/1.1\r\nHost: broker\r\nTransfer-Encoding: chunked\r\n%s\r\nzz\r\n", head.String())
	_ = conn.SetReadDeadline(time.Now().Add(deadline))
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	wantError(t, resp, http.StatusBadRequest, "RequestValidationError")
}

func TestProxyRenewsAndRepeatsAfterA401(t *testing.T) {
	tokens := make(chan string, 10)
	auth := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"access_token": "access-2", "refresh_token": "refresh-2", "expires_in": 3600, "token_type": "Bearer"}`)
	}))
	t.Cleanup(auth.Close)
	d := newDownstream(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		tokens <- r.Header.Get("Authorization") + " " + string(body) + " " + r.Header.Get("X-Custom")
		if r.Header.Get("Authorization") != "Bearer access-2" {
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	caddyfile, _ := d.forward(t, "")
	caddyfile = strings.Replace(caddyfile, "https://auth.acme.test/token", auth.URL, 1)
	handler := run(t, caddyfile)
	importToken(t, handler, "crm/acme", "access-1")
	resp := do(t, handler, "POST", "http://broker/proxy", "body", call(d.URL, "X-Custom", "kept")...)
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("got status %d: %s", resp.StatusCode, readAll(t, resp))
	}
	if first, second := <-tokens, <-tokens; first != "Bearer access-1 body kept" || second != "Bearer access-2 body kept" {
		t.Errorf("downstream got %q, then %q", first, second)
	}
}

func TestProxySendsTheCallersOwnCredential(t *testing.T) {
	d := newDownstream(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Echo", r.Header.Get("Authorization"))
		w.WriteHeader(http.StatusUnauthorized)
	})
	caddyfile, log := d.forward(t, "")
	handler := run(t, caddyfile)
	importToken(t, handler, "crm/acme", "access-1")
	own := []string{"X-Apideck-Downstream-Authorization", "Token canary-own"}
	resp := do(t, handler, "GET", "http://broker/proxy?q=canary-query", "", call(d.URL, own...)...)
	if resp.StatusCode != http.StatusUnauthorized || resp.Header.Get("X-Apideck-Downstream-Error") != "true" || resp.Header.Get("X-Token-Broker-Error") != "" {
		t.Errorf("got status %d with %v", resp.StatusCode, resp.Header)
	}
	if strings.Contains(fmt.Sprint(resp.Header), "canary") {
		t.Errorf("got %v", resp.Header)
	}
	if got := d.request(t).Header.Values("Authorization"); len(got) != 1 || got[0] != "Token canary-own" {
		t.Errorf("downstream got %q", got)
	}
	d.wantNone(t) // nothing is renewed

	wantError(t, do(t, handler, "GET", "http://broker/proxy", "", call("https://evil.test", own...)...), 403, "ForbiddenError")
	wantError(t, do(t, handler, "GET", "http://broker/proxy", "", append([]string{"X-Apideck-App-Id", "x"}, own...)...), 401, "UnauthorizedError")
	do(t, handler, "GET", "http://broker/proxy", "", call(d.URL, "X-Apideck-Downstream-Authorization", "")...)
	text := logged(t, log)
	if strings.Contains(text, "canary") {
		t.Errorf("the log shows the credential: %s", text)
	}
	if got := strings.Count(text, `"msg":"handled request"`); got != 5 { // the import, and the four above
		t.Errorf("the log has %d lines about requests:\n%s", got, text)
	}
	if got := strings.Count(text, `"logger":"http.handlers.downstream_proxy","msg":"handled request"`); got != 3 {
		t.Errorf("the proxy has logged %d lines:\n%s", got, text)
	}
}

func TestProxyCarriesAWebSocket(t *testing.T) {
	d := newDownstream(t, echoUpgrade)
	srv, _ := d.serve(t, "")
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
	// One side says that it will send no more; the other still may.
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(buffered); err != nil || string(rest) != "bye\n" {
		t.Errorf("got %q, %v at the end", rest, err)
	}
}

func TestProxyEndsWebSocketsWithTheirConfiguration(t *testing.T) {
	d := newDownstream(t, echoUpgrade)
	srv, _ := d.serve(t, "")
	conn, _, buffered := upgraded(t, srv, d.URL)
	fmt.Fprintln(conn, "1")
	if _, err := buffered.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if err := load(t, "{\nadmin off\n}"); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(buffered); err != nil || string(rest) != string(goingAway) {
		t.Errorf("got %q, %v", rest, err)
	}
}

func TestProxyDoesNotSwitchToWhatWasNotAskedFor(t *testing.T) {
	d := newDownstream(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			t.Errorf("downstream was asked for %s", r.Header.Get("Upgrade"))
		}
	})
	srv, _ := d.serve(t, "")
	for _, upgrade := range []string{"h2c", "websocket, h2c", "foo", "TLS/1.0"} {
		resp := roundTrip(t, newCall(t.Context(), t, srv, "GET", d.URL, nil, "Connection", "Upgrade", "Upgrade", upgrade))
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s: got status %d", upgrade, resp.StatusCode)
		}
	}
}

// echoUpgrade switches to a protocol that repeats lines.
func echoUpgrade(w http.ResponseWriter, r *http.Request) {
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

// upgraded opens a WebSocket to url through the proxy.
func upgraded(t *testing.T, srv *httptest.Server, url string) (net.Conn, *http.Response, *bufio.Reader) {
	t.Helper()
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(deadline))
	req := newCall(t.Context(), t, srv, "GET", url, nil, "Connection", "Upgrade", "Upgrade", "WebSocket",
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
