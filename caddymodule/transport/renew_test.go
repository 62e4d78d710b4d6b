package transport

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/internal/caddytest"
)

// renewing runs a connection whose imported token downstream refuses, and counts requests to
// the token endpoint. The connector has the given lines.
func renewing(t *testing.T, d *caddytest.Downstream, lines ...string) (http.Handler, *atomic.Int32) {
	t.Helper()
	var redeems atomic.Int32
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		redeems.Add(1)
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"access_token":"renewed","refresh_token":"next","expires_in":3600}`)
	}))
	t.Cleanup(endpoint.Close)
	caddyfile, _ := d.Proxy(t, "app my-app", "")
	caddyfile = strings.Replace(caddyfile, "https://auth.acme.test/token", strings.Join(append([]string{endpoint.URL}, lines...), "\n"), 1)
	handler := caddytest.Run(t, caddyfile)
	caddytest.ImportToken(t, handler, "crm/acme", "revoked")
	return handler, &redeems
}

// replayed is the largest body that is sent a second time.
const replayed = 64 << 10

func TestRejectedTokenIsRenewedAndTheRequestSentAgain(t *testing.T) {
	for name, body := range map[string]string{"no body": "", "small body": strings.Repeat("x", replayed)} {
		t.Run(name, func(t *testing.T) {
			d := caddytest.NewDownstream(t, caddytest.OnlyRenewed)
			handler, redeems := renewing(t, d)
			for range 3 {
				resp := caddytest.Do(t, handler, http.MethodPost, "http://caller.test/", body, "X-Apideck-Consumer-Id", "jane")
				if got := caddytest.ReadAll(t, resp); resp.StatusCode != http.StatusOK || got != body {
					t.Fatalf("got status %d and %d bytes, want 200 and %d", resp.StatusCode, len(got), len(body))
				}
			}
			if got := redeems.Load(); got != 1 {
				t.Errorf("got %d redeems, want 1", got)
			}
		})
	}
}

// A service that looks at the token first does not wait for the body, and callers send that when
// they like.
func TestRequestIsSentAgainThoughItsBodyIsStillToCome(t *testing.T) {
	for name, tt := range map[string]struct {
		protocol string
		first    string // what is sent before the 401
		length   int64
	}{
		"a known length":           {"http/1.1", "first, ", 11},
		"chunks":                   {"http/1.1", "first, ", -1},
		"nothing yet":              {"http/1.1", "", 4},
		"nothing yet, chunks":      {"http/1.1", "", -1},
		"over HTTP/2":              {"h2", "first, ", -1},
		"over HTTP/2, nothing yet": {"h2", "", 4},
	} {
		t.Run(name, func(t *testing.T) {
			d := caddytest.NewDownstreamOver(t, tt.protocol, func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Authorization") == "Bearer renewed" {
					caddytest.OnlyRenewed(w, r)
					return
				}
				_ = http.NewResponseController(w).EnableFullDuplex() // otherwise the server reads the body first
				w.WriteHeader(http.StatusUnauthorized)
				_ = http.NewResponseController(w).Flush()
			})
			handler, redeems := renewing(t, d)
			body, writer := io.Pipe()
			go func() {
				_, _ = io.WriteString(writer, tt.first)
				for deadline := time.Now().Add(caddytest.Deadline); redeems.Load() == 0 && time.Now().Before(deadline); {
					time.Sleep(time.Millisecond)
				}
				_, _ = io.WriteString(writer, "rest")
				_ = writer.Close()
			}()
			req := httptest.NewRequest(http.MethodPost, "http://caller.test/", body)
			req.ContentLength = tt.length
			req.Header.Set("X-Apideck-Consumer-Id", "jane")
			rec := httptest.NewRecorder()
			handler.ServeHTTP(rec, req)
			if want := tt.first + "rest"; rec.Code != http.StatusOK || rec.Body.String() != want {
				t.Errorf("got status %d: %q, want %q", rec.Code, rec.Body, want)
			}
		})
	}
}

func TestLargeRequestIsNotSentAgainButTheTokenRenewed(t *testing.T) {
	d := caddytest.NewDownstream(t, caddytest.OnlyRenewed)
	handler, redeems := renewing(t, d)
	large := strings.Repeat("x", replayed+1)
	resp := caddytest.Do(t, handler, http.MethodPost, "http://caller.test/", large, "X-Apideck-Consumer-Id", "jane")
	if resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("got status %d, want downstream's 401", resp.StatusCode)
	}
	brokertest.Eventually(t, caddytest.Deadline, "a token renewed in the background", func() error {
		resp := caddytest.Do(t, handler, http.MethodPost, "http://caller.test/", large, "X-Apideck-Consumer-Id", "jane")
		d.Request(t) // makes room for the next request
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("got status %d", resp.StatusCode)
		}
		return nil
	})
	if got := redeems.Load(); got != 1 {
		t.Errorf("got %d redeems, want 1", got)
	}
}

func TestRejectionThatRenewingDoesNotHelpIsHandedOn(t *testing.T) {
	d := caddytest.NewDownstream(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Reason", "no permission")
		w.WriteHeader(http.StatusUnauthorized)
	})
	handler, redeems := renewing(t, d)
	for range 5 {
		resp := caddytest.Do(t, handler, http.MethodGet, "http://caller.test/", "", "X-Apideck-Consumer-Id", "jane")
		if resp.StatusCode != http.StatusUnauthorized || resp.Header.Get("X-Reason") != "no permission" {
			t.Errorf("got status %d, reason %q, want downstream's", resp.StatusCode, resp.Header.Get("X-Reason"))
		}
	}
	if got := redeems.Load(); got != 1 {
		t.Errorf("got %d redeems in a row of 401s, want 1", got)
	}
}

func TestTokenIsRenewedForWhatTheConnectorTakesForExpired(t *testing.T) {
	for name, test := range map[string]struct {
		status int
		body   string
		redeem int32
	}{
		"a status":             {http.StatusForbidden, "", 1},
		"a body":               {http.StatusOK, `{"ok":false,"error":"token_expired"}`, 1},
		"another body":         {http.StatusOK, `{"ok":false,"error":"no_such_channel"}`, 0},
		"a body too long":      {http.StatusOK, strings.Repeat(" ", 64<<10) + "token_expired", 0},
		"the body of an error": {http.StatusBadRequest, "token_expired", 0},
	} {
		t.Run(name, func(t *testing.T) {
			d := caddytest.NewDownstream(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Authorization") == "Bearer renewed" {
					_, _ = io.WriteString(w, "renewed, version "+r.Header.Get("X-Version"))
					return
				}
				w.Header().Set("Content-Length", strconv.Itoa(len(test.body)))
				w.WriteHeader(test.status)
				_, _ = io.WriteString(w, test.body)
			})
			handler, redeems := renewing(t, d, "expired_status 403 404\nexpired_body 200 token_expired\nheader X-Version 7")
			resp := caddytest.Do(t, handler, http.MethodPost, "http://caller.test/", "x", "X-Apideck-Consumer-Id", "jane")
			want := "renewed, version 7"
			if test.redeem == 0 {
				want = test.body
			}
			if got := caddytest.ReadAll(t, resp); got != want || redeems.Load() != test.redeem {
				t.Errorf("got status %d, %d bytes %.40q after %d redeems", resp.StatusCode, len(got), got, redeems.Load())
			}
		})
	}
}
