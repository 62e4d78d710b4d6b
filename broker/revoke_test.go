package broker_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker"
	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/guard"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// A revocationEndpoint is a revocation endpoint (RFC 7009) beside a harness's provider.
type revocationEndpoint struct {
	provider http.RoundTripper

	// respond is called with the number of the request, from 1 on; nil is a 200.
	respond func(n int) (*http.Response, error)

	mu       sync.Mutex
	requests []*http.Request // guarded by mu
	forms    []url.Values    // guarded by mu
}

// RoundTrip implements [http.RoundTripper].
func (e *revocationEndpoint) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Path != "/revoke" {
		return e.provider.RoundTrip(req)
	}
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	e.requests, e.forms = append(e.requests, req), append(e.forms, form)
	n := len(e.forms)
	e.mu.Unlock()
	if e.respond != nil {
		if resp, err := e.respond(n); resp != nil || err != nil {
			return resp, err
		}
	}
	return brokertest.Response(http.StatusOK, ""), nil
}

// revoked returns the tokens that were sent, each with its type hint.
func (e *revocationEndpoint) revoked() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var sent []string
	for _, form := range e.forms {
		sent = append(sent, strings.TrimSuffix(form.Get("token"), "-"+brokertest.RefreshCanary)+" "+form.Get("token_type_hint"))
	}
	return strings.Join(sent, ", ")
}

// sent returns the number of requests so far.
func (e *revocationEndpoint) sent() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.forms)
}

// revoking gives the OAuth connectors of a harness a revocation endpoint.
func (h *harness) revoking() *revocationEndpoint {
	h.t.Helper()
	e := &revocationEndpoint{provider: h.provider}
	h.restart(broker.Options{
		Open:      func(context.Context) (record.Store, error) { return h.store, nil },
		Transport: func(bool) http.RoundTripper { return e },
		Journal:   h.journal,
	})
	h.configure(func(cfg *record.Config) {
		for _, conn := range cfg.Connectors {
			if conn.AuthType == connector.OAuth2 {
				conn.RevocationURL = "https://auth.acme.test/revoke"
			}
		}
	})
	return e
}

func TestDeleteRevokesTheGrantAtTheProvider(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		e := h.revoking()
		h.mustImport("a1", "r1", issued(0))
		if err := h.Delete(t.Context(), h.key); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		h.mustImportBody(h.at(long), `{"credentials": {"access_token": "a2", `+issued(0)+`}}`)
		h.configureConnector(long, func(c *record.Connector) { c.AuthStyle = connector.AuthParams })
		if err := h.Delete(t.Context(), h.at(long)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got, want := e.revoked(), "r1 refresh_token, a2 access_token"; got != want {
			t.Fatalf("got %s, want %s", got, want)
		}
		const header, params = `header "client" true, params "" false`, `header "" false, params "client" true`
		for i, want := range []string{header, params} {
			if got := e.requests[i].Method; got != http.MethodPost {
				t.Errorf("request %d: got method %s, want POST", i+1, got)
			}
			if got := e.requests[i].UserAgent(); !strings.HasPrefix(got, "token-broker/") {
				t.Errorf("request %d: got user agent %s, want the broker", i+1, got)
			}
			id, clientSecret, _ := e.requests[i].BasicAuth()
			got := fmt.Sprintf("header %q %t, params %q %t", id, clientSecret == url.QueryEscape(brokertest.ClientSecretCanary),
				e.forms[i].Get("client_id"), e.forms[i].Get("client_secret") == brokertest.ClientSecretCanary)
			if got != want {
				t.Errorf("request %d: got the client in %s, want %s", i+1, got, want)
			}
		}
		for _, key := range []record.Key{h.key, h.at(long)} {
			if got := h.logLines("level=INFO", "connection="+key.String(), "revoked"); len(got) != 1 {
				t.Errorf("got %d lines about the revocation for %s, want 1; the log:\n%s", len(got), key, h.log)
			}
		}
	})
}

// A connection with its own OAuth client has its grant from that client.
func TestGrantOfAConnectionsOwnClientIsRevokedWithIt(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		e := h.revoking()
		h.configureConnector(acme, func(c *record.Connector) {
			c.Settings = []connector.Setting{{Name: "client_id"}, {Name: "client_secret", Sensitive: true}}
		})
		h.mustImportBody(h.key, `{"credentials": {"access_token": "a1", "refresh_token": "r1", `+issued(0)+`},
			"settings": {"client_id": "own", "client_secret": "own-secret"}}`)
		if err := h.Delete(t.Context(), h.key); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if e.sent() != 1 {
			t.Fatalf("got %d requests, want 1", e.sent())
		}
		if id, clientSecret, _ := e.requests[0].BasicAuth(); id != "own" || clientSecret != "own-secret" {
			t.Errorf("got the client %q, want the connection's own", id)
		}
	})
}

func TestDeleteDoesNotDependOnRevocation(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		respond func(int) (*http.Response, error)
		sent    int
		log     string
	}{
		"refused": {
			func(int) (*http.Response, error) {
				return brokertest.Response(http.StatusBadRequest, map[string]any{"error": "unsupported_token_type"}), nil
			}, 1, "http_400): unsupported_token_type",
		},
		"an answer with secrets": {
			func(int) (*http.Response, error) {
				return brokertest.Response(http.StatusForbidden, map[string]any{"error": brokertest.RefreshCanary}), nil
			}, 1, "http_403",
		},
		"elsewhere": {
			func(int) (*http.Response, error) {
				resp := brokertest.Response(http.StatusTemporaryRedirect, "")
				resp.Header.Set("Location", "https://auth.acme.test/revoke")
				return resp, nil
			}, 1, "http_307",
		},
		"a reset": {func(int) (*http.Response, error) { return nil, errors.New(brokertest.RefreshCanary) }, 3, "unavailable"},
		"an address that is not allowed": {
			func(int) (*http.Response, error) { return nil, fmt.Errorf("x: %w", guard.ErrAddressNotAllowed) }, 1, "address is not allowed",
		},
		"down for a while": {
			func(n int) (*http.Response, error) {
				if n < 3 {
					return brokertest.Response(http.StatusServiceUnavailable, ""), nil
				}
				return nil, nil
			}, 3, "was revoked",
		},
		"silence": {nil, 1, "unavailable"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			virtually(t, func(t *testing.T, h *harness) {
				e := h.revoking()
				if e.respond = tt.respond; name == "silence" {
					gone := make(chan struct{}) // made in this bubble
					time.AfterFunc(20*time.Second, func() { close(gone) })
					e.respond = func(int) (*http.Response, error) { <-gone; return nil, context.DeadlineExceeded }
				}
				h.mustImport("a1", brokertest.RefreshCanary, issued(0))
				begun := time.Now()
				if err := h.Delete(t.Context(), h.key); err != nil {
					t.Fatal(err)
				}
				if waited := time.Since(begun); waited > 0 {
					t.Errorf("the deletion waited %v for the revocation", waited)
				}
				if _, err := h.Connection(t.Context(), h.key); !errors.Is(err, record.ErrConnectionNotFound) {
					t.Errorf("got %v, want ErrConnectionNotFound", err)
				}
				time.Sleep(time.Minute)
				if got := e.sent(); got != tt.sent {
					t.Errorf("got %d requests, want %d", got, tt.sent)
				}
				if log := h.log.String(); !strings.Contains(log, tt.log) {
					t.Errorf("the log does not say %q:\n%s", tt.log, log)
				}
			})
		})
	}
}

// A caller that deletes a connection and imports the same tokens a moment later wants them
// to work: from the import on nothing is revoked.
func TestGrantThatIsImportedAgainIsNotRevoked(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		e := h.revoking()
		e.respond = func(int) (*http.Response, error) { return brokertest.Response(http.StatusServiceUnavailable, ""), nil }
		h.provider.Grant("r1")
		h.mustImport("a1", "r1", issued(0))
		if err := h.Delete(t.Context(), h.key); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // until the wait before the second try
		h.mustImport("a1", "r1", issued(0))
		time.Sleep(time.Minute)
		if got := e.sent(); got != 1 {
			t.Errorf("got %d requests, want the one before the import", got)
		}
		if log := h.log.String(); !strings.Contains(log, "imported again") {
			t.Errorf("the log does not tell of it: %s", log)
		}
	})
}

func TestCloseWaitsForARevocation(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		e := h.revoking()
		release := make(chan struct{})
		e.respond = func(int) (*http.Response, error) {
			<-release
			return brokertest.Response(http.StatusBadGateway, ""), nil
		}
		h.mustImport("a1", "r1", issued(0))
		if err := h.Delete(t.Context(), h.key); err != nil {
			t.Fatal(err)
		}
		closed := make(chan error, 1)
		go func() { closed <- h.Close(context.Background()) }()
		synctest.Wait()
		select {
		case err := <-closed:
			t.Fatalf("closed with %v before the revocation ended", err)
		default:
		}
		close(release)
		if err := <-closed; err != nil {
			t.Error(err)
		}
		if got := e.sent(); got != 1 {
			t.Errorf("got %d requests, want 1: a shutdown repeats nothing", got)
		}
		h.start()
	})
}
