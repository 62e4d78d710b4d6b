package proxy

import (
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
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
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

func TestProxyRefusesURLsThatLeadElsewhere(t *testing.T) {
	d := caddytest.NewDownstream(t, caddytest.OK)
	caddyfile, _ := d.Forward(t, "")
	handler := caddytest.Run(t, caddyfile)
	caddytest.ImportToken(t, handler, "crm/acme", "access-1")
	host := strings.TrimPrefix(d.URL, "https://")
	for _, url := range []string{
		"https://user@" + host, "https://" + host + "@evil.test", "https://evil.test", "https://127.0.0.1",
		"https://" + host + ".evil.test", `https://evil.test\@` + host, `https://` + host + `\evil`, "https://[::ffff:127.0.0.1]:1/",
		"https://evil.test#" + host, "https://" + host + "/#x", "//" + host, "/path", host, "ftp://" + host, "https:/" + host, "https:///x",
		"https://" + host + "/../x", "https://" + host + "/a/%2e%2E/x", "https://" + host + "/a/..%2f..", "https://" + host + "/%252e%252e/",
		"https://" + host + "/..;x/", "https://" + host + "/a/..%5c", "https://" + host + "/%", "https://" + host + "/%zz", "https://%31",
		"https://169.254.169.254/", "https://" + host + ":1", "https://" + host + ":99999", "javascript:alert(1)", "https://{host}/", "{url}",
		"https://evil.test:443 " + host, "https://evil.test/?https://" + host, "https://[" + host + "]", "https://", "://x", "https://[", "https://127.1/",
	} {
		resp := caddytest.Do(t, handler, "GET", "http://broker/proxy", "", caddytest.Call(url)...)
		if resp.StatusCode < 400 || resp.StatusCode > 422 {
			t.Errorf("%s: got status %d: %s", url, resp.StatusCode, caddytest.ReadAll(t, resp))
		}
		if resp.Header.Get("X-Apideck-Downstream-Error") != "false" || resp.Header.Get("X-Apideck-Request-Id") == "" {
			t.Errorf("%s: got %v", url, resp.Header)
		}
		d.WantNone(t)
	}
	for _, below := range []string{"/proxy/..", "/proxy/%2e%2e/x", "/proxy/a/..%2F..%2Fx", "/proxy/..%5cx", "/proxy/%252e%252e/"} {
		resp := caddytest.Do(t, handler, "GET", "http://broker"+below, "", caddytest.Call(d.URL+"/v1")...)
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: got status %d: %s", below, resp.StatusCode, caddytest.ReadAll(t, resp))
		}
		d.WantNone(t)
	}
}

func TestProxyTakesTheMethodOfTheHeader(t *testing.T) {
	d := caddytest.NewDownstream(t, caddytest.OK)
	caddyfile, _ := d.Forward(t, "")
	handler := caddytest.Run(t, caddyfile)
	caddytest.ImportToken(t, handler, "crm/acme", "access-1")
	for _, tt := range []struct{ method, header, want string }{
		{"GET", "", "GET"},
		{"HEAD", "", "HEAD"},
		{"OPTIONS", "", "OPTIONS"},
		{"PATCH", "", "PATCH"},
		{"DELETE", "", "DELETE"},
		{"PROPFIND", "", "PROPFIND"},
		{"POST", "get", "GET"},
		{"GET", "DELETE", "DELETE"},
		{"POST", "REPORT", "REPORT"},
	} {
		resp := caddytest.Do(t, handler, tt.method, "http://broker/proxy", "", caddytest.Call(d.URL, "X-Apideck-Downstream-Method", tt.header)...)
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%v: got status %d", tt, resp.StatusCode)
			continue
		}
		if got := d.Request(t).Method; got != tt.want {
			t.Errorf("%v: downstream was asked %s", tt, got)
		}
	}
	for _, tt := range []struct {
		method, header string
		status         int
	}{{"TRACE", "", 405}, {"TRACE", "GET", 405}, {"GET", "trace", 405}, {"GET", "CONNECT", 405}, {"GET", "A B", 400}, {"GET", "GET\x80", 400}} {
		resp := caddytest.Do(t, handler, tt.method, "http://broker/proxy", "", caddytest.Call(d.URL, "X-Apideck-Downstream-Method", tt.header)...)
		if resp.StatusCode != tt.status {
			t.Errorf("%v: got status %d: %s", tt, resp.StatusCode, caddytest.ReadAll(t, resp))
		}
		d.WantNone(t)
	}
}

func TestProxyRefusesCallersItDoesNotKnow(t *testing.T) {
	d := caddytest.NewDownstream(t, caddytest.OK)
	caddyfile, _ := d.Forward(t, "")
	handler := caddytest.Run(t, caddyfile)
	caddytest.ImportToken(t, handler, "crm/acme", "access-1")
	url := "X-Apideck-Downstream-Url"
	for name, tt := range map[string]struct {
		header []string
		status int
		want   string
	}{
		"nothing":         {nil, 401, "UnauthorizedError"},
		"wrong key":       {[]string{"Authorization", "Bearer wrong", "X-Apideck-App-Id", "my-app", url, d.URL}, 401, "UnauthorizedError"},
		"no consumer":     {[]string{"Authorization", "Bearer " + caddytest.Key, "X-Apideck-App-Id", "my-app", url, d.URL}, 400, "RequestHeadersValidationError"},
		"no URL":          {caddytest.Caller("X-Apideck-Service-Id", "acme"), 400, "RequestHeadersValidationError"},
		"an empty URL":    {caddytest.Caller("X-Apideck-Service-Id", "acme", url, ""), 400, "RequestHeadersValidationError"},
		"two URLs":        {caddytest.Caller(url, d.URL, url, "https://evil.test"), 400, "RequestHeadersValidationError"},
		"unknown service": {caddytest.Caller(url, d.URL, "X-Apideck-Service-Id", "other"), 404, "ConnectorNotFoundError"},
		"unknown API":     {caddytest.Caller(url, d.URL, "X-Apideck-Service-Id", "acme", "X-Apideck-Unified-Api", "hris"), 404, "ConnectorNotFoundError"},
		"no connection": {[]string{
			"Authorization", "Bearer " + caddytest.Key, "X-Apideck-App-Id", "my-app", "X-Apideck-Consumer-Id", "john",
			url, d.URL, "X-Apideck-Service-Id", "acme",
		}, 404, "ConnectionNotFoundError"},
		"no connection, no service": {[]string{
			"Authorization", "Bearer " + caddytest.Key, "X-Apideck-App-Id", "my-app", "X-Apideck-Consumer-Id", "john",
			url, d.URL,
		}, 404, "ConnectionNotFoundError"},
		"no connector for the host": {caddytest.Caller(url, "https://elsewhere.test"), 403, "ForbiddenError"},
	} {
		t.Run(name, func(t *testing.T) {
			caddytest.WantError(t, caddytest.Do(t, handler, "GET", "http://broker/proxy", "", tt.header...), tt.status, tt.want)
			d.WantNone(t)
		})
	}
}

func TestProxyFindsTheOnlyConnectionForTheHost(t *testing.T) {
	d := caddytest.NewDownstream(t, caddytest.OK)
	caddyfile, _ := d.Forward(t, "", caddytest.ConnectorLines("hris/acme", d.URL, "allow_private"),
		caddytest.ConnectorLines("crm/other", d.URL, "allow_private"), caddytest.ConnectorLines("crm/far", "https://api.far.test"))
	handler := caddytest.Run(t, caddyfile)
	caddytest.ImportToken(t, handler, "crm/far", "far-access")
	caddytest.ImportToken(t, handler, "crm/acme", "acme-access")
	url := []string{"X-Apideck-Downstream-Url", d.URL}
	send := func(more ...string) *http.Response {
		return caddytest.Do(t, handler, "GET", "http://broker/proxy", "", caddytest.Caller(append(url, more...)...)...)
	}
	want := func(what, token string, more ...string) {
		t.Helper()
		resp := send(more...)
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: got status %d: %s", what, resp.StatusCode, caddytest.ReadAll(t, resp))
		}
		if got := d.Request(t).Header.Get("Authorization"); got != "Bearer "+token {
			t.Errorf("%s: got %s", what, got)
		}
	}
	// Official clients send the headers that they were not given too.
	want("only one", "acme-access", "X-Apideck-Service-Id", "", "X-Apideck-Unified-Api", "", "X-Apideck-Timeout", "", "X-Apideck-Downstream-Authorization", "")
	want("only one of the service", "acme-access", "X-Apideck-Service-Id", "acme")

	caddytest.ImportToken(t, handler, "hris/acme", "hris-access")
	caddytest.ImportToken(t, handler, "crm/other", "other-access")
	body := caddytest.WantError(t, send(), 400, "RequestHeadersValidationError")
	for _, name := range []string{"crm/acme", "hris/acme", "crm/other"} {
		if !strings.Contains(body["message"].(string), name) {
			t.Errorf("%v does not name %s", body, name)
		}
	}
	if strings.Contains(fmt.Sprint(body), "far") {
		t.Errorf("%v names a connection for another host", body)
	}
	body = caddytest.WantError(t, send("X-Apideck-Service-Id", "acme"), 400, "RequestHeadersValidationError")
	if message := body["message"].(string); !strings.Contains(message, "crm/acme, hris/acme") || !strings.Contains(message, "x-apideck-unified-api") {
		t.Errorf("got %s", message)
	}
	caddytest.WantError(t, send("X-Apideck-Unified-Api", "crm"), 400, "RequestHeadersValidationError")
	d.WantNone(t)
	want("whole", "hris-access", "X-Apideck-Service-Id", "acme", "X-Apideck-Unified-Api", "hris")
	want("only one of the API", "hris-access", "X-Apideck-Unified-Api", "hris")
	want("another service", "other-access", "X-Apideck-Service-Id", "other")
}

func TestProxyDirectiveIsParsed(t *testing.T) {
	for config, want := range map[string]string{
		"downstream_proxy": "",
		"downstream_proxy {\ntimeout 1s\nmax_timeout 5s\n}": "",
		"downstream_proxy x":                                 "wrong argument count",
		"downstream_proxy {\ntimeout\n}":                     "timeout takes one argument",
		"downstream_proxy {\ntimeout x\n}":                   "not a duration",
		"downstream_proxy {\ntimeout 1s\ntimeout 2s\n}":      "already set",
		"downstream_proxy {\nwhatever\n}":                    "unrecognized subdirective",
		"downstream_proxy {\ntls_trust_pool\n}":              "wrong argument count",
		"downstream_proxy {\ntls_trust_pool no-such-pool\n}": "no-such-pool",
		"downstream_proxy {\ntimeout -1s\n}":                 "must be longer",
	} {
		err := new(Handler).UnmarshalCaddyfile(caddyfile.NewTestDispenser(config))
		switch {
		case err == nil && want != "":
			t.Errorf("%q: there is no error, want %s", config, want)
		case err != nil && (want == "" || !strings.Contains(err.Error(), want)):
			t.Errorf("%q: got %v, want %s", config, err, want)
		}
	}
}

func TestProxyFillsTheURLInFromTheConnectionsSettings(t *testing.T) {
	d := caddytest.NewDownstream(t, caddytest.OK)
	caddyfile, _ := d.Forward(t, "", caddytest.ConnectorLines("crm/tenant", d.URL+"/{realm_id}", "setting realm_id\nsetting note sensitive\nallow_private"))
	handler := caddytest.Run(t, caddyfile)
	body := strings.TrimSuffix(caddytest.TokenBody("access-1"), "}") + `, "settings": {"realm_id": "a b", "note": "canary-note", "depth": "x/y", "Region": 7}}`
	if resp := caddytest.Do(t, handler, "POST", "http://broker/vault/connections/crm/tenant/import", body, caddytest.Caller()...); resp.StatusCode != http.StatusOK {
		t.Fatalf("importing: %s", caddytest.ReadAll(t, resp))
	}
	send := func(url string) *http.Response {
		return caddytest.Do(t, handler, "GET", "http://broker/proxy", "", caddytest.Caller("X-Apideck-Service-Id", "tenant", "X-Apideck-Downstream-Url", d.URL+url)...)
	}
	if resp := send("/{realm_id}/x?q={realm_id}&r={Region}"); resp.StatusCode != http.StatusOK {
		t.Fatalf("got status %d: %s", resp.StatusCode, caddytest.ReadAll(t, resp))
	}
	if got := d.Request(t).RequestURI; got != "/a%20b/x?q=a%20b&r=7" {
		t.Errorf("downstream was asked for %s", got)
	}
	for _, url := range []string{"/{missing}", "/{depth}", "/{note}", "/?q={note}"} {
		body := caddytest.WantError(t, send(url), http.StatusUnprocessableEntity, "InvalidStateError")
		if message := body["message"].(string); !strings.HasPrefix(message, "x-apideck-downstream-url ") || strings.Contains(message, "canary") {
			t.Errorf("%s: got %s", url, message)
		}
	}
	d.WantNone(t)
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

// selfSigned returns a certificate that nobody has signed.
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
