package caddymodule

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
)

// renewing runs a connection whose imported token downstream takes for revoked, and
// counts what the token endpoint is asked.
func renewing(t *testing.T, d *downstream) (http.Handler, *atomic.Int32) {
	t.Helper()
	var redeems atomic.Int32
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		redeems.Add(1)
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"access_token":"renewed","refresh_token":"next","expires_in":3600}`)
	}))
	t.Cleanup(endpoint.Close)
	caddyfile, _ := d.proxy(t, "app my-app", "")
	caddyfile = strings.Replace(caddyfile, "https://auth.acme.test/token", endpoint.URL, 1)
	handler := run(t, caddyfile)
	importToken(t, handler, "crm/acme", "revoked")
	return handler, &redeems
}

func onlyRenewed(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	if r.Header.Get("Authorization") != "Bearer renewed" {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	_, _ = w.Write(body)
}

func TestRejectedTokenIsRenewedAndTheRequestSentAgain(t *testing.T) {
	for name, body := range map[string]string{"no body": "", "small body": strings.Repeat("x", maxReplayBody)} {
		t.Run(name, func(t *testing.T) {
			d := newDownstream(t, onlyRenewed)
			handler, redeems := renewing(t, d)
			for range 3 {
				resp := do(t, handler, http.MethodPost, "http://caller.test/", body, "X-Apideck-Consumer-Id", "jane")
				if got := readAll(t, resp); resp.StatusCode != http.StatusOK || got != body {
					t.Fatalf("got status %d and %d bytes, want 200 and %d", resp.StatusCode, len(got), len(body))
				}
			}
			if got := redeems.Load(); got != 1 {
				t.Errorf("got %d redeems, want 1", got)
			}
		})
	}
}

func TestLargeRequestIsNotSentAgainButTheTokenRenewed(t *testing.T) {
	d := newDownstream(t, onlyRenewed)
	handler, redeems := renewing(t, d)
	large := strings.Repeat("x", maxReplayBody+1)
	resp := do(t, handler, http.MethodPost, "http://caller.test/", large, "X-Apideck-Consumer-Id", "jane")
	if resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("got status %d, want downstream's 401", resp.StatusCode)
	}
	brokertest.Eventually(t, deadline, "the token's renewal in the background", func() error {
		resp := do(t, handler, http.MethodPost, "http://caller.test/", large, "X-Apideck-Consumer-Id", "jane")
		d.request(t) // makes room for the next
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
	d := newDownstream(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Reason", "no permission")
		w.WriteHeader(http.StatusUnauthorized)
	})
	handler, redeems := renewing(t, d)
	for range 5 {
		resp := do(t, handler, http.MethodGet, "http://caller.test/", "", "X-Apideck-Consumer-Id", "jane")
		if resp.StatusCode != http.StatusUnauthorized || resp.Header.Get("X-Reason") != "no permission" {
			t.Errorf("got status %d, reason %q, want downstream's", resp.StatusCode, resp.Header.Get("X-Reason"))
		}
	}
	if got := redeems.Load(); got != 1 {
		t.Errorf("got %d redeems in a row of 401s, want 1", got)
	}
}
