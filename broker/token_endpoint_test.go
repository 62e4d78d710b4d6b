package broker_test

import (
	"compress/gzip"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker"
	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// TestTokenEndpointAnswers runs over real connections: half of the cases are about them.
func TestTokenEndpointAnswers(t *testing.T) {
	t.Parallel()
	const refreshToken = "r1-" + brokertest.RefreshCanary
	reply := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}
	}
	typed := func(kind, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", kind)
			_, _ = io.WriteString(w, body)
		}
	}
	for name, test := range map[string]struct {
		handler http.HandlerFunc
		class   record.Class // empty: a token
		code    string
		refresh string // the refresh token stored afterwards; default: as before
	}{
		"token":                       {reply(200, `{"access_token":"a2","refresh_token":"r2","expires_in":3600}`), "", "", "r2"},
		"token without rotation":      {reply(200, `{"access_token":"a2","expires_in":3600}`), "", "", ""},
		"lifetime as a string":        {reply(200, `{"access_token":"a2","expires_in":"3600"}`), "", "", ""},
		"unreadable lifetime":         {reply(200, `{"access_token":"a2","refresh_token":"r2","expires_in":"soon"}`), "", "", "r2"},
		"refresh token a number":      {reply(200, `{"access_token":"a2","refresh_token":7}`), "", "", ""},
		"201":                         {reply(201, `{"access_token":"a2"}`), "", "", ""},
		"form encoded":                {typed("application/x-www-form-urlencoded", `access_token=a2&refresh_token=r2`), "", "", "r2"},
		"JSON called text":            {typed("text/plain", `{"access_token":"a2","refresh_token":"r2"}`), "", "", "r2"},
		"invalid_grant":               {reply(400, `{"error":"invalid_grant"}`), record.ClassPermanent, "invalid_grant", ""},
		"invalid_grant with 401":      {reply(401, `{"error":"invalid_grant"}`), record.ClassPermanent, "invalid_grant", ""},
		"the connector's own word":    {reply(400, `{"error":"token_is_dead"}`), record.ClassPermanent, "token_is_dead", ""},
		"its own word as the status":  {reply(400, `{"status":"token_is_dead","message":"unknown"}`), record.ClassPermanent, "token_is_dead", ""},
		"invalid_grant in an object":  {reply(400, `{"error":{"code":"invalid_grant"}}`), record.ClassPermanent, "invalid_grant", ""},
		"another object":              {reply(400, `{"error":{"code":"no_coffee"}}`), record.ClassRefused, "no_coffee", ""},
		"a status that says nothing":  {reply(400, `{"status":"error"}`), record.ClassRefused, "http_400", ""},
		"200 with invalid_grant":      {reply(200, `{"error":"invalid_grant"}`), record.ClassPermanent, "invalid_grant", ""},
		"200 with invalid_client":     {reply(200, `{"error":"invalid_client"}`), record.ClassConfiguration, "invalid_client", ""},
		"200 with another error":      {reply(200, `{"error":"fatal_error"}`), record.ClassRefused, "fatal_error", ""},
		"invalid_client":              {reply(401, `{"error":"invalid_client"}`), record.ClassConfiguration, "invalid_client", ""},
		"unauthorized_client":         {reply(400, `{"error":"unauthorized_client"}`), record.ClassRefused, "unauthorized_client", ""},
		"an unknown code":             {reply(400, `{"error":"no_coffee"}`), record.ClassRefused, "no_coffee", ""},
		"a code that is a sentence":   {reply(400, `{"error":"no coffee today"}`), record.ClassRefused, "unknown_error", ""},
		"a code that is the token":    {reply(400, `{"error":"`+refreshToken+`"}`), record.ClassRefused, "unknown_error", ""},
		"400 without a body":          {reply(400, ``), record.ClassRefused, "http_400", ""},
		"401 without a body":          {reply(401, ``), record.ClassRefused, "http_401", ""},
		"403":                         {reply(403, `<html>`), record.ClassTransient, "http_403", ""},
		"408":                         {reply(408, ``), record.ClassAmbiguous, "http_408", ""},
		"429":                         {reply(429, ``), record.ClassTransient, "http_429", ""},
		"500":                         {reply(500, `{"error":"invalid_grant"}`), record.ClassAmbiguous, "http_500", ""},
		"502":                         {reply(502, refreshToken), record.ClassAmbiguous, "http_502", ""},
		"503":                         {reply(503, ``), record.ClassTransient, "http_503", ""},
		"200 with garbage":            {reply(200, `<html>`+refreshToken), record.ClassAmbiguous, "unusable_answer", ""},
		"200 with nothing":            {reply(200, ``), record.ClassAmbiguous, "unusable_answer", ""},
		"200 without a token":         {reply(200, `{"token_type":"bearer"}`), record.ClassAmbiguous, "unusable_answer", ""},
		"only a refresh token":        {reply(200, `{"refresh_token":"r2"}`), record.ClassTransient, "no_access_token", "r2"},
		"a body of 10 MB":             {reply(200, `{"access_token":"a2","x":"`+strings.Repeat("x", 10<<20)+`"}`), record.ClassAmbiguous, "unusable_answer", ""},
		"a token of 100 kB":           {reply(200, `{"access_token":"`+strings.Repeat("x", 100<<10)+`","refresh_token":"r2"}`), record.ClassTransient, "no_access_token", "r2"},
		"gzip, not asked for":         {coded("gzip", gzipped(`{"access_token":"a2","refresh_token":"r2"}`)), "", "", "r2"},
		"gzip, not labelled":          {coded("", gzipped(`{"access_token":"a2","refresh_token":"r2"}`)), "", "", "r2"},
		"gzip by the label alone":     {coded("gzip", `{"access_token":"a2","refresh_token":"r2"}`), "", "", "r2"},
		"a small bomb":                {coded("gzip", gzipped(`{"access_token":"a2","x":"`+strings.Repeat("x", 10<<20)+`"}`)), record.ClassAmbiguous, "unusable_answer", ""},
		"gzip cut short":              {coded("gzip", gzipped(`{"access_token":"a2","refresh_token":"r2"}`)[:20]), record.ClassAmbiguous, "unusable_answer", ""},
		"invalid_grant in gzip":       {coded("gzip", gzipped(`{"error":"invalid_grant"}`)), record.ClassPermanent, "invalid_grant", ""},
		"byte order mark":             {reply(200, "\xef\xbb\xbf"+`{"access_token":"a2","refresh_token":"r2"}`), "", "", "r2"},
		"refusal with one":            {reply(400, "\xef\xbb\xbf"+`{"error":"invalid_grant"}`), record.ClassPermanent, "invalid_grant", ""},
		"form called HTML":            {typed("text/html", `access_token=a2&refresh_token=r2`), "", "", "r2"},
		"line break behind a token":   {typed("text/plain", "access_token=a2&refresh_token=r2\r\n"), "", "", "r2"},
		"refresh token deep down":     {reply(200, `{"status":0,"body":[{"refresh_token":"r2"}]}`), record.ClassTransient, "no_access_token", "r2"},
		"a warning before the JSON":   {reply(200, `<b>Warning</b> {"access_token":"a2","refresh_token":"r\/2"}`), "", "", "r/2"},
		"one before what is no JSON":  {reply(200, `<b>Warning</b> {"access_token":"a2","refresh_token":"r\/2",}`), record.ClassTransient, "no_access_token", "r/2"},
		"cut short after the token":   {cutShort(200, `{"refresh_token":"r2","x":`), record.ClassTransient, "no_access_token", "r2"},
		"whole, then cut short":       {cutShort(200, `{"access_token":"a2","refresh_token":"r2"}`), "", "", "r2"},
		"the request repeated":        {reply(200, `{"request":{"refresh_token":"`+refreshToken+`"}}`), record.ClassAmbiguous, "unusable_answer", ""},
		"one broken member":           {reply(200, `{"access_token":"a2","refresh_token":"r2","expires_in":{},"token_type":1,"scope":0}`), "", "", "r2"},
		"body cut short":              {cutShort(200, `{"access_token":"a2"`), record.ClassAmbiguous, "unusable_answer", ""},
		"refusal cut short":           {cutShort(400, `{"error":"invalid_client"`), record.ClassAmbiguous, "http_400", ""},
		"redirect cut short":          {cutShort(307, ``), record.ClassTransient, "http_307", ""},
		"a refusal of 10 MB":          {reply(403, strings.Repeat("x", 10<<20)), record.ClassRefused, "http_403", ""},
		"connection reset":            {reset, record.ClassAmbiguous, "no_answer", ""},
		"hangs":                       {hang, record.ClassAmbiguous, "no_answer", ""},
		"hangs after the head":        {hangAfter(200, ``), record.ClassAmbiguous, "no_answer", ""},
		"hangs within the body":       {hangAfter(200, `{"access_token":"a2",`), record.ClassAmbiguous, "no_answer", ""},
		"hangs within a refusal":      {hangAfter(400, `{"error":"invalid_grant"`), record.ClassAmbiguous, "http_400", ""},
		"permanent redirect (307)":    {redirect(307), record.ClassTransient, "http_307", ""},
		"redirect that becomes a GET": {redirect(302), record.ClassTransient, "http_302", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t)
			h.useRealTransport()
			var requests atomic.Int32
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				requests.Add(1)
				if _, err := io.ReadAll(r.Body); err != nil || r.ProtoMajor != 1 {
					t.Errorf("reading an HTTP/%d request: %v", r.ProtoMajor, err)
				}
				test.handler(w, r)
			}))
			t.Cleanup(server.Close)
			h.pointAt(server.URL)
			if strings.HasPrefix(name, "hangs") {
				h.giveUpSoon()
			}

			_, err := h.expired("a1", refreshToken).Token(t.Context())
			if test.class != "" {
				wantTokenErrorCode(t, err, test.class, test.code)
			} else if err != nil {
				t.Errorf("got %v, want a token", err)
			}
			if err != nil {
				brokertest.NoCanary(t, "the error", []byte(err.Error()))
			}
			if got := requests.Load(); got != 1 {
				t.Errorf("got %d token requests, want 1", got)
			}
			want := test.refresh
			if want == "" {
				want = refreshToken
			}
			rec := h.record(h.key)
			if rec.Credentials.RefreshToken.Reveal() != want {
				t.Errorf("the refresh token %s is not stored", want[:2])
			}
			if rec.Lease != nil {
				t.Errorf("the record has a lease: %+v", rec.Lease)
			}
		})
	}
}

func hang(w http.ResponseWriter, r *http.Request) {
	select {
	case <-r.Context().Done():
	case <-time.After(time.Minute):
	}
}

// hangAfter sends the beginning of a body, and hangs.
func hangAfter(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
		_ = http.NewResponseController(w).Flush()
		hang(w, r)
	}
}

func reset(w http.ResponseWriter, _ *http.Request) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		panic(err)
	}
	_ = conn.(*net.TCPConn).SetLinger(0)
	_ = conn.Close()
}

// coded answers with a body of that content coding; empty: unlabelled.
func coded(coding, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("Accept-Encoding"); got != "identity" {
			w.WriteHeader(http.StatusNotAcceptable)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if coding != "" {
			w.Header().Set("Content-Encoding", coding)
		}
		_, _ = io.WriteString(w, body)
	}
}

func gzipped(body string) string {
	var b strings.Builder
	w := gzip.NewWriter(&b)
	_, _ = io.WriteString(w, body)
	_ = w.Close()
	return b.String()
}

func cutShort(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func redirect(status int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", status) }
}

func TestTokenEndpointOutOfReachIsTransient(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.useRealTransport()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = listener.Close() // connections to the port are refused from now on
	h.pointAt("http://" + listener.Addr().String())
	_, err = h.expired("a1", "r1").Token(t.Context())
	wantTokenErrorCode(t, err, record.ClassTransient, "not_sent")
}

func TestTokenEndpointAtAPrivateAddressIsRefusedUnlessItIsMeant(t *testing.T) {
	t.Parallel()
	for private, want := range map[bool]struct {
		requests int32
		code     string
	}{false: {0, "address_not_allowed"}, true: {1, "http_503"}} {
		h := newHarness(t)
		h.useRealTransport()
		var requests atomic.Int32
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			requests.Add(1)
			w.WriteHeader(http.StatusServiceUnavailable)
		}))
		t.Cleanup(server.Close)
		h.pointAt(server.URL)
		h.configureConnector(acme, func(c *record.Connector) { c.AllowPrivate = private })
		_, err := h.expired("a1", "r1").Token(t.Context())
		wantTokenErrorCode(t, err, record.ClassTransient, want.code)
		if got := requests.Load(); got != want.requests {
			t.Errorf("allow_private %t: got %d token requests, want %d", private, got, want.requests)
		}
	}
}

// A token endpoint accepts the connection, and then does nothing. Over plain HTTP it may
// still read the request; a TLS handshake has not even begun.
func TestTokenEndpointThatReadsNothing(t *testing.T) {
	t.Parallel()
	for scheme, want := range map[string]struct {
		class record.Class
		code  string
	}{
		"http":  {record.ClassAmbiguous, "no_answer"},
		"https": {record.ClassTransient, "not_sent"},
	} {
		t.Run(scheme, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t)
			h.useRealTransport()
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = listener.Close() })
			h.pointAt(scheme + "://" + listener.Addr().String())
			h.giveUpSoon()
			_, err = h.expired("a1", "r1").Token(t.Context())
			wantTokenErrorCode(t, err, want.class, want.code)
		})
	}
}

func TestTokenEndpointOnAPrivateAddressIsNotAsked(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.useRealTransport()
	server := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the private address was reached") }))
	t.Cleanup(server.Close)
	h.configureConnector(acme, func(c *record.Connector) { c.TokenURL, c.AllowPrivate = server.URL, false })
	_, err := h.expired("a1", "r1").Token(t.Context())
	wantTokenErrorCode(t, err, record.ClassTransient, "address_not_allowed")
}

// useRealTransport makes the harness's broker send token requests over the network.
func (h *harness) useRealTransport() {
	h.t.Helper()
	h.restart(broker.Options{Open: func(context.Context) (record.Store, error) { return h.store, nil }})
	h.configure(func(cfg *record.Config) { cfg.RefreshTimeout = time.Minute })
}

// giveUpSoon shortens the timeout of token requests, for endpoints that hang.
func (h *harness) giveUpSoon() {
	h.configure(func(cfg *record.Config) { cfg.RefreshTimeout = 2 * time.Second })
}

// pointAt sets the URL of acme's token endpoint.
func (h *harness) pointAt(url string) {
	h.configureConnector(acme, func(c *record.Connector) {
		c.TokenURL, c.AllowPrivate = url+"/token", true
		c.PermanentErrors = []string{"token_is_dead"}
	})
}

// expired stores a connection to acme whose token has expired, and returns its source.
func (h *harness) expired(access, refresh string) broker.Source {
	h.t.Helper()
	rec := &record.Record{Key: h.key, Enabled: true, Generation: 1, Credentials: &record.Credentials{
		AccessToken: secret.New(access), RefreshToken: secret.New(refresh), FromImport: true,
		IssuedAt: time.Now().Add(-2 * time.Hour), Expiry: time.Now().Add(-time.Hour),
	}}
	if _, err := h.store.Save(h.t.Context(), rec, 0); err != nil {
		h.t.Fatal(err)
	}
	return h.Source(h.key)
}
