package proxy

import (
	"bufio"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/caddymodule/internal/caddytest"
)

func TestProxyTellsATruncatedResponse(t *testing.T) {
	d := caddytest.NewDownstream(t, func(w http.ResponseWriter, r *http.Request) {
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
	srv, _ := d.Serve(t, "")
	for _, path := range []string{"/length", "/chunked"} {
		resp := caddytest.RoundTrip(t, caddytest.NewCall(t.Context(), t, srv, "GET", d.URL+path, nil))
		if got, err := io.ReadAll(resp.Body); err == nil {
			t.Errorf("%s: %q passes for the whole body", path, got)
		}
	}
}

// TestProxySurvivesHostileResponses has downstream send what a Go server would not.
func TestProxySurvivesHostileResponses(t *testing.T) {
	d := caddytest.NewDownstream(t, func(w http.ResponseWriter, r *http.Request) {
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
	srv, log := d.Serve(t, "")
	for _, path := range []string{"/99", "/000", "/101", "/garbage", "/header", "/nothing", "/many", "/long", "/conflict", "/smuggling"} {
		t.Run(path, func(t *testing.T) {
			resp := caddytest.RoundTrip(t, caddytest.NewCall(t.Context(), t, srv, "GET", d.URL+path, nil))
			caddytest.WantError(t, resp, http.StatusBadGateway, "ConnectorExecutionError")
			if strings.Contains(fmt.Sprint(resp.Header), "canary") {
				t.Errorf("got %v", resp.Header)
			}
		})
	}
	if strings.Contains(caddytest.Logged(t, log), "canary") {
		t.Error("the log shows the credential")
	}
}

func TestProxyAnswersDownstreamsErrorsAsTheyAre(t *testing.T) {
	d := caddytest.NewDownstream(t, func(w http.ResponseWriter, r *http.Request) {
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
	srv, _ := d.Serve(t, "")
	resp := caddytest.RoundTrip(t, caddytest.NewCall(t.Context(), t, srv, "GET", d.URL, nil))
	if got := caddytest.ReadAll(t, resp); resp.StatusCode != http.StatusTeapot || got != "short and stout" {
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
	d := caddytest.NewDownstream(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "https://evil.test/", http.StatusTemporaryRedirect)
	})
	srv, _ := d.Serve(t, "")
	resp := caddytest.RoundTrip(t, caddytest.NewCall(t.Context(), t, srv, "POST", d.URL, strings.NewReader("body")))
	if resp.StatusCode != http.StatusTemporaryRedirect || resp.Header.Get("Location") != "https://evil.test/" {
		t.Errorf("got status %d with %v", resp.StatusCode, resp.Header)
	}
	d.Request(t)
	d.WantNone(t)
}

func TestProxyDoesNotTrustStrangers(t *testing.T) {
	d := caddytest.NewDownstream(t, caddytest.OK)
	stranger := httptest.NewUnstartedServer(http.HandlerFunc(caddytest.OK))
	stranger.TLS = &tls.Config{Certificates: []tls.Certificate{selfSigned(t)}}
	stranger.StartTLS()
	t.Cleanup(stranger.Close)
	caddyfile, _ := d.Forward(t, "", caddytest.ConnectorLines("crm/stranger", stranger.URL, "allow_private"))
	handler := caddytest.Run(t, caddyfile)
	caddytest.ImportToken(t, handler, "crm/stranger", "access-1")
	resp := caddytest.Do(t, handler, "GET", "http://broker/proxy", "", caddytest.Caller("X-Apideck-Service-Id", "stranger", "X-Apideck-Downstream-Url", stranger.URL)...)
	caddytest.WantError(t, resp, http.StatusBadGateway, "ConnectorExecutionError")
}

func TestProxyBodyThatCannotBeReadIsTheCallersFault(t *testing.T) {
	d := caddytest.NewDownstream(t, func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
	srv, _ := d.Serve(t, "")
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var head strings.Builder
	header := caddytest.Call(d.URL)
	for i := 0; i < len(header); i += 2 {
		fmt.Fprintf(&head, "%s: %s\r\n", header[i], header[i+1])
	}
	fmt.Fprintf(conn, "POST /proxy HTTP/1.1\r\nHost: broker\r\nTransfer-Encoding: chunked\r\n%s\r\nzz\r\n", head.String())
	_ = conn.SetReadDeadline(time.Now().Add(caddytest.Deadline))
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	caddytest.WantError(t, resp, http.StatusBadRequest, "RequestValidationError")
}

// selfSigned returns a self-signed certificate.
func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}
}
