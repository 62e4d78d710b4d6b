package transport

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/internal/caddytest"
)

// TestDownstreamCannotHandTheCredentialOn has downstream echo the credential everywhere
// except in the body.
func TestDownstreamCannotHandTheCredentialOn(t *testing.T) {
	for name, echo := range map[string]http.HandlerFunc{
		"header": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Echo", r.Header.Get("Authorization"))
			w.Header().Set(broker.ErrorHeader, "Forged")
			w.Header().Set(broker.ImportHeader, "stored")
		},
		"early hints": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Echo", r.Header.Get("Authorization"))
			w.Header().Set(broker.ErrorHeader, "Forged")
			w.WriteHeader(http.StatusEarlyHints)
			w.Header().Del("X-Echo")
			w.Header().Del(broker.ErrorHeader)
		},
		"trailer": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Trailer", "X-Echo")
			_, _ = fmt.Fprint(w, "body")
			w.Header().Set("X-Echo", r.Header.Get("Authorization"))
			w.Header().Set(http.TrailerPrefix+broker.ErrorHeader, "Forged")
		},
		"name of an announced trailer": func(w http.ResponseWriter, r *http.Request) {
			_, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
			w.Header().Set("X-Echo", token)
			w.Header().Set("Trailer", token)
			_, _ = fmt.Fprint(w, "body")
			w.Header().Set(token, "x")
		},
		"percent-encoded in lower case": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "https://elsewhere.test/?t="+strings.ReplaceAll(r.Header.Get("Authorization"), "/", "%2f"))
			w.WriteHeader(http.StatusFound)
		},
		"malformed header": func(w http.ResponseWriter, r *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				panic(err)
			}
			_, _ = fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\n%s broken\r\n\r\n", r.Header.Get("Authorization"))
			_ = conn.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := caddytest.NewDownstream(t, echo)
			caddyfile, log := d.Proxy(t, "app my-app\nversions 1.1", "")
			handler := caddytest.Run(t, caddyfile)
			srv := httptest.NewServer(handler)
			t.Cleanup(srv.Close)
			token := "canary-access"
			if name == "percent-encoded in lower case" {
				token = "canary/access+1"
			}
			caddytest.ImportToken(t, handler, "crm/acme", token)

			var seen strings.Builder
			ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
				Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
					fmt.Fprintln(&seen, code, header)
					return nil
				},
			})
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, srv.URL, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("X-Apideck-Consumer-Id", "jane")
			resp, err := http.DefaultTransport.RoundTrip(req) // without following redirects
			if err != nil {
				t.Fatal(err)
			}
			body := caddytest.ReadAll(t, resp)
			_ = resp.Body.Close()
			d.Request(t)
			fmt.Fprintln(&seen, resp.Status, resp.Header, resp.Trailer, body)
			if name != "malformed header" && !strings.Contains(seen.String(), "REDACTED") {
				t.Errorf("what downstream sent back did not arrive at all: %s", seen.String())
			}
			for what, text := range map[string]string{"the answer": seen.String(), "the log": caddytest.Logged(t, log)} {
				if strings.Contains(strings.ToLower(text), "canary") || strings.Contains(text, "Forged") || strings.Contains(text, broker.ImportHeader) {
					t.Errorf("%s has what downstream sent back:\n%s", what, text)
				}
			}
		})
	}
}

func TestNoTraceLeavesWithACredential(t *testing.T) {
	d := caddytest.NewDownstream(t, caddytest.OK)
	caddyfile, _ := d.Proxy(t, "app my-app", "")
	handler := caddytest.Run(t, caddyfile)
	caddytest.ImportToken(t, handler, "crm/acme", "canary-access")
	resp := caddytest.Do(t, handler, http.MethodTrace, "http://caller.test/", "", "X-Apideck-Consumer-Id", "jane")
	caddytest.WantError(t, resp, http.StatusMethodNotAllowed, "MethodNotAllowedError")
	d.WantNone(t)
}
