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

// A revocationEndpoint is one beside the token endpoint of a harness.
type revocationEndpoint struct {
	provider http.RoundTripper

	// respond is asked with the number of the request, from 1 on; nil is a 200.
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

// revoked returns the tokens that were sent, each with its hint.
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

// revoking makes the connectors of a harness revoke.
func (h *harness) revoking() *revocationEndpoint {
	h.t.Helper()
	e := &revocationEndpoint{provider: h.provider}
	h.restart(broker.Options{
		Open:      func(context.Context) (record.Store, error) { return h.store, nil },
		Transport: func(bool) http.RoundTripper { return e },
		Journal:   h.journal,
	})
	h.configure(func(cfg *broker.Config) {
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
		if _, _, err := h.importBody(h.at(long), `{"credentials": {"access_token": "a2", `+issued(0)+`}}`); err != nil {
			t.Fatal(err)
		}
		h.configureConnector(long, func(c *record.Connector) { c.AuthStyle = connector.AuthParams })
		if err := h.Delete(t.Context(), h.at(long)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got, want := e.revoked(), "r1 refresh_token, a2 access_token"; got != want {
			t.Fatalf("got %s, want %s", got, want)
		}
		id, clientSecret, _ := e.requests[0].BasicAuth()
		if e.requests[0].Method != http.MethodPost || id != "client" || clientSecret != url.QueryEscape(brokertest.ClientSecretCanary) || e.forms[0].Has("client_id") {
			t.Errorf("got %s with the client %s, want a POST with the client in the header", e.requests[0].Method, id)
		}
		if f := e.forms[1]; f.Get("client_id") != "client" || f.Get("client_secret") != brokertest.ClientSecretCanary || e.requests[1].Header.Get("Authorization") != "" {
			t.Error("the client is not in the parameters")
		}
		if got := strings.Count(h.log.String(), "was revoked at the provider"); got != 2 {
			t.Errorf("the log tells of %d revocations, want 2", got)
		}
	})
}

// A connection that has an OAuth client of its own has its grant from that.
func TestGrantOfAConnectionsOwnClientIsRevokedWithIt(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		e := h.revoking()
		h.configureConnector(acme, func(c *record.Connector) {
			c.Settings = []connector.Setting{{Name: "client_id"}, {Name: "client_secret", Sensitive: true}}
		})
		if _, _, err := h.importBody(h.key, `{"credentials": {"access_token": "a1", "refresh_token": "r1", `+issued(0)+`},
			"settings": {"client_id": "own", "client_secret": "own-secret"}}`); err != nil {
			t.Fatal(err)
		}
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
		"a reset": {func(int) (*http.Response, error) { return nil, errors.New(brokertest.RefreshCanary) }, 3, "out of reach"},
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
		"silence": {nil, 1, "out of reach"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			virtually(t, func(t *testing.T, h *harness) {
				e := h.revoking()
				if e.respond = tt.respond; name == "silence" {
					gone := make(chan struct{}) // of this bubble
					time.AfterFunc(20*time.Second, func() { close(gone) })
					e.respond = func(int) (*http.Response, error) { <-gone; return nil, context.DeadlineExceeded }
				}
				h.mustImport("a1", brokertest.RefreshCanary, issued(0))
				begun := time.Now()
				if err := h.Delete(t.Context(), h.key); err != nil {
					t.Fatal(err)
				}
				if waited := time.Since(begun); waited > 0 {
					t.Errorf("the deletion waited for %v", waited)
				}
				if _, err := h.Connection(t.Context(), h.key); !errors.Is(err, record.ErrConnectionNotFound) {
					t.Errorf("got %v, want ErrConnectionNotFound", err)
				}
				time.Sleep(time.Minute)
				if got := e.sent(); got != tt.sent {
					t.Errorf("got %d requests, want %d", got, tt.sent)
				}
				if log := h.log.String(); !strings.Contains(log, tt.log) {
					t.Errorf("got the log %s\nwithout %q", log, tt.log)
				}
			})
		})
	}
}

// Whoever deletes a connection and imports the same tokens a moment later wants them to
// work. What has been revoked by then is gone, but nothing is revoked from then on.
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
		synctest.Wait() // until the pause before the second try
		h.mustImport("a1", "r1", issued(0))
		time.Sleep(time.Minute)
		if got := e.sent(); got != 1 {
			t.Errorf("got %d requests, want the one before the import", got)
		}
		if log := h.log.String(); !strings.Contains(log, "imported anew") {
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
			t.Fatalf("it did not wait: %v", err)
		default:
		}
		close(release)
		if err := <-closed; err != nil {
			t.Error(err)
		}
		if got := e.sent(); got != 1 {
			t.Errorf("got %d requests, want 1: when all ends nothing is repeated", got)
		}
		h.start()
	})
}
