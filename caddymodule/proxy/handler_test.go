package proxy

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/tokenbroker/caddy-token-broker/caddymodule/internal/caddytest"
)

func TestProxySendsTheRequestOnWithTheCredential(t *testing.T) {
	d := caddytest.NewDownstream(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Own", "kept")
		fmt.Fprintf(w, "got %s", body)
	})
	caddyfile, _ := d.Forward(t, "")
	handler := caddytest.Run(t, caddyfile)
	caddytest.ImportToken(t, handler, "crm/acme", "access-1")

	resp := caddytest.Do(t, handler, "POST", "http://broker/proxy", "hello", caddytest.Call(d.URL+"/v1/things?q=1",
		"X-Custom", "kept", "Content-Type", "text/plain", "Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")...)
	if got := caddytest.ReadAll(t, resp); resp.StatusCode != http.StatusOK || got != "got hello" || resp.Header.Get("X-Own") != "kept" {
		t.Fatalf("got status %d with %v: %s", resp.StatusCode, resp.Header, got)
	}
	if id := resp.Header.Get("X-Apideck-Request-Id"); len(id) != 36 {
		t.Errorf("got request id %q", id)
	}
	if _, ok := resp.Header["X-Apideck-Downstream-Error"]; ok {
		t.Error("a success is said to be an error")
	}
	got := d.Request(t)
	if got.Method != http.MethodPost || got.URL.String() != "/v1/things?q=1" || "https://"+got.Host != d.URL {
		t.Errorf("downstream was asked %s %s of %s", got.Method, got.URL, got.Host)
	}
	for name, want := range map[string]string{
		"Authorization": "Bearer access-1", "X-Custom": "kept", "Content-Type": "text/plain", "Content-Length": "5",
		"Traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
	} {
		if got := strings.Join(got.Header.Values(name), "|"); got != want {
			t.Errorf("got %s %q, want %q", name, got, want)
		}
	}
}

func TestRequestIDsAreRandomUUIDs(t *testing.T) {
	seen := make(map[string]bool)
	for range 1000 {
		id := newRequestID()
		if parsed, err := uuid.Parse(id); err != nil || parsed.Version() != 4 || parsed.Variant() != uuid.RFC4122 || seen[id] {
			t.Fatalf("got %s, %v", id, err)
		}
		seen[id] = true
	}
}

func TestProxyKeepsTheCallersOwnHeadersBack(t *testing.T) {
	d := caddytest.NewDownstream(t, caddytest.OK)
	caddyfile, _ := d.Forward(t, "")
	handler := caddytest.Run(t, caddyfile)
	caddytest.ImportToken(t, handler, "crm/acme", "access-1")
	caddytest.Do(t, handler, "GET", "http://broker/proxy", "", caddytest.Call(d.URL+"/", "Cookie", "a=1", "Proxy-Authorization", "x", "Proxy-Whatever", "x",
		"X-Forwarded-For", "10.0.0.1", "X-Forwarded-Whatever", "x", "Forwarded", "for=x", "Baggage", "a=b", "X-Apideck-Metadata", "x",
		"X-Apideckish", "x", "X-Token-Broker-Error", "x", "X-Real-Ip", "10.0.0.1",
		"Connection", "x-hop, Authorization", "Connection", " x-hop-2 ,close", "X-Hop", "1", "X-Hop-2", "2", "Keep-Alive", "1",
		"Te", "gzip, trailers", "Upgrade", "h2c", "Http2-Settings", "x", "X-Kept", "1")...)
	header := d.Request(t).Header
	var names []string
	for name := range header {
		names = append(names, name)
	}
	slices.Sort(names)
	if want := []string{"Authorization", "Te", "Via", "X-Kept"}; !slices.Equal(names, want) {
		t.Errorf("got headers %v, want %v", header, want)
	}
	if got := header.Values("Authorization"); !slices.Equal(got, []string{"Bearer access-1"}) {
		t.Errorf("got Authorization %q", got)
	}
	if header.Get("Te") != "trailers" {
		t.Errorf("got TE %q", header.Get("Te"))
	}
}

func TestProxyAddsWhatIsBelowItToTheURL(t *testing.T) {
	d := caddytest.NewDownstream(t, caddytest.OK)
	caddyfile, _ := d.Forward(t, "")
	handler := caddytest.Run(t, caddyfile)
	caddytest.ImportToken(t, handler, "crm/acme", "access-1")
	for _, tt := range []struct{ target, url, want string }{
		{"/proxy", "", "/"},
		{"/proxy/", "/", "/"},
		{"/proxy", "?a=1", "/?a=1"},
		{"/proxy", "/v1?", "/v1?"},
		{"/proxy?b=2", "/v1?", "/v1?b=2"},
		{"/proxy?", "/v1", "/v1"},
		{"/proxy/", "/v1", "/v1"},
		{"/proxy/things", "/v1", "/v1/things"},
		{"/proxy/things", "/v1/", "/v1/things"},
		{"/proxy/things/", "", "/things/"},
		{"/proxy/a%2Fb", "/v1", "/v1/a%2Fb"},
		{"/%70roxy/a%20b", "/v1", "/v1/a%20b"},
		{"/proxy?b=2", "/v1?a=1", "/v1?a=1&b=2"},
		{"/proxy/x?b={c}", "/v1", "/v1/x?b=%7Bc%7D"},
		{"/proxy", "/query?q=select * from \"Account\" where a = 'ü'", "/query?q=select%20*%20from%20%22Account%22%20where%20a%20=%20'%C3%BC'"},
		{"/proxy", "/a b/{}/x;y=1,2(3)!$&'*+:@", "/a%20b/%7B%7D/x;y=1,2(3)!$&'*+:@"},
		{"/proxy", "/%E4%F6", "/%E4%F6"},
		{"/proxy", "/x?q={\"a\":[1]}&y=%zz", "/x?q=%7B%22a%22:[1]%7D&y=%zz"},
	} {
		resp := caddytest.Do(t, handler, "GET", "http://broker"+tt.target, "", caddytest.Call(d.URL+tt.url)...)
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s with %s: got status %d: %s", tt.target, tt.url, resp.StatusCode, caddytest.ReadAll(t, resp))
			continue
		}
		if got := d.Request(t).RequestURI; got != tt.want {
			t.Errorf("%s with %s: downstream was asked for %s, want %s", tt.target, tt.url, got, tt.want)
		}
	}
	for _, target := range []string{"/proxyx", "/", "/proxy%2Fx", "/Proxy", "/x/proxy"} {
		caddytest.Do(t, handler, "GET", "http://broker"+target, "", caddytest.Call(d.URL)...)
		d.WantNone(t)
	}
}

// The trailers come with what is left of the body, after the request was sent again.
func TestProxyRepeatsARequestWhoseBodyIsStillToCome(t *testing.T) {
	d := caddytest.NewDownstream(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "Bearer renewed" {
			caddytest.OnlyRenewed(w, r)
			_, _ = io.WriteString(w, ", sum "+r.Trailer.Get("X-Sum"))
			return
		}
		_ = http.NewResponseController(w).EnableFullDuplex() // otherwise the server reads the body first
		w.WriteHeader(http.StatusUnauthorized)
		_ = http.NewResponseController(w).Flush()
	})
	renewed := make(chan struct{})
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"access_token":"renewed","refresh_token":"next","expires_in":3600}`)
		close(renewed)
	}))
	t.Cleanup(endpoint.Close)
	caddyfile, _ := d.Forward(t, "")
	handler := caddytest.Run(t, strings.Replace(caddyfile, "https://auth.acme.test/token", endpoint.URL, 1))
	caddytest.ImportToken(t, handler, "crm/acme", "revoked")
	srv := httptest.NewServer(handler)
	t.Cleanup(srv.Close)
	body, writer := io.Pipe()
	req := caddytest.NewCall(t.Context(), t, srv, http.MethodPost, d.URL, body)
	req.Trailer = http.Header{"X-Sum": nil}
	go func() {
		_, _ = io.WriteString(writer, "first, ")
		select {
		case <-renewed:
		case <-time.After(caddytest.Deadline):
		}
		req.Trailer.Set("X-Sum", "7")
		_, _ = io.WriteString(writer, "rest")
		_ = writer.Close()
	}()
	resp := caddytest.RoundTrip(t, req)
	if got := caddytest.ReadAll(t, resp); resp.StatusCode != http.StatusOK || got != "first, rest, sum 7" {
		t.Errorf("got status %d: %s", resp.StatusCode, got)
	}
}

func TestProxyRepeatsARequestWithAnEmptyBody(t *testing.T) {
	d := caddytest.NewDownstream(t, caddytest.OnlyRenewed)
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"access_token":"renewed","refresh_token":"next","expires_in":3600}`)
	}))
	t.Cleanup(endpoint.Close)
	caddyfile, _ := d.Forward(t, "")
	handler := caddytest.Run(t, strings.Replace(caddyfile, "https://auth.acme.test/token", endpoint.URL, 1))
	caddytest.ImportToken(t, handler, "crm/acme", "revoked")
	req := httptest.NewRequest(http.MethodPost, "http://broker/proxy", io.MultiReader()) // of unknown length
	for i, header := 0, caddytest.Call(d.URL); i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	rec := httptest.NewRecorder()
	handler.ServeHTTP(rec, req)
	if rec.Code != http.StatusOK {
		t.Errorf("got status %d: %s", rec.Code, rec.Body)
	}
}
