package broker_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

func TestTokenRequestIsJSONWhereTheServiceWantsThat(t *testing.T) {
	t.Parallel()
	for style, want := range map[connector.AuthStyle]string{
		connector.AuthHeader: "grant_type=refresh_token&refresh_token=r1&x=%22%3C%26",
		connector.AuthParams: "client_id=client&client_secret=" + brokertest.ClientSecretCanary + "&grant_type=refresh_token&refresh_token=r1&x=%22%3C%26",
	} {
		virtually(t, func(t *testing.T, h *harness) {
			h.connect(connector.Definition{
				ID: acme, AuthStyle: style, TokenBody: connector.BodyJSON, TokenParams: map[string]string{"x": `"<&`},
			})
			h.provider.Grant("r1")
			h.expired("a1", "r1")
			h.token(h.key)
			if got := h.provider.Requests()[0].Encode(); got != want {
				t.Errorf("%s: got %s, want %s", style, got, want)
			}
		})
	}
}

func TestJSONRequestOnTheWire(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.useRealTransport()
	var got []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := make([]byte, r.ContentLength)
		_, _ = r.Body.Read(body)
		got = append(got, r.Method+" "+r.URL.Path+" "+r.Header.Get("Content-Type")+" "+string(body))
		w.WriteHeader(http.StatusInternalServerError)
	}))
	t.Cleanup(server.Close)
	h.pointAt(server.URL)
	h.configureConnector(acme, func(c *record.Connector) {
		c.TokenBody, c.RefreshURL = connector.BodyJSON, server.URL+"/refresh"
	})
	_, err := h.expired("a1", "r1").Token(t.Context())
	wantTokenError(t, err, record.ClassAmbiguous)
	if want := `POST /refresh application/json {"grant_type":"refresh_token","refresh_token":"r1"}`; len(got) != 1 || got[0] != want {
		t.Errorf("got %q, want %q once", got, want)
	}
}

func TestClientAuthenticatesAsTheConnectorSays(t *testing.T) {
	t.Parallel()
	for style, want := range map[connector.AuthStyle]string{
		connector.AuthHeader:    `header "id%3A" "s+%26", params "" ""`, // RFC 6749 section 2.3.1: form-encoded first
		connector.AuthHeaderRaw: `header "id+" "s &", params "" ""`,
		connector.AuthParams:    `header "" "", params "id:" "s &"`,
		connector.AuthBoth:      `header "id+" "s &", params "id+" "s &"`,
	} {
		t.Run(string(style), func(t *testing.T) {
			t.Parallel()
			h := newHarness(t)
			h.useRealTransport()
			got := ""
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				id, clientSecret, _ := r.BasicAuth()
				got = fmt.Sprintf("header %q %q, params %q %q", id, clientSecret, r.FormValue("client_id"), r.FormValue("client_secret"))
				_, _ = io.WriteString(w, `{"access_token":"a2"}`)
			}))
			t.Cleanup(server.Close)
			h.pointAt(server.URL)
			id := "id:"
			if style == connector.AuthHeaderRaw || style == connector.AuthBoth {
				id = "id+" // a colon would look like the one before the secret
			}
			h.configureConnector(acme, func(c *record.Connector) {
				c.AuthStyle, c.Client = style, record.Client{ID: id, Secret: secret.New("s &")}
			})
			if _, err := h.expired("a1", "r1").Token(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		})
	}
}

func TestTokenRequestHasTheConnectorsMethodAndHeaders(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.useRealTransport()
	got := ""
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = fmt.Sprintf("%s %s, tenant %s, agent %.13s", r.Method, r.URL.RawQuery, r.Header.Get("X-Tenant"), r.UserAgent())
		_, _ = io.WriteString(w, `{"access_token":"a2"}`)
	}))
	t.Cleanup(server.Close)
	h.pointAt(server.URL)
	h.configureConnector(acme, func(c *record.Connector) {
		c.TokenMethod, c.TokenHeaders = connector.MethodGet, map[string]string{"X-Tenant": "{tenant}"}
		c.Settings = []connector.Setting{{Name: "tenant", Required: true}}
	})
	source := h.expired("a1", "r1")
	_, err := source.Token(t.Context())
	if failed, ok := errors.AsType[*record.TokenError](err); !ok || failed.Code != record.CodeMissingSettings || got != "" {
		t.Errorf("without the setting: got %v, and the endpoint got %q", err, got)
	}
	h.mustImportBody(h.key, `{"settings":{"tenant":"t1"}}`)
	if _, err := source.Token(t.Context()); err != nil {
		t.Fatal(err)
	}
	if want := "GET grant_type=refresh_token&refresh_token=r1, tenant t1, agent token-broker/"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// A request without a body counts as sent once it has a connection: the endpoint may have it.
func TestTokenRequestByGETIsAmbiguousWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.useRealTransport()
	server := httptest.NewServer(http.HandlerFunc(reset))
	t.Cleanup(server.Close)
	h.pointAt(server.URL)
	h.configureConnector(acme, func(c *record.Connector) { c.TokenMethod = connector.MethodGet })
	_, err := h.expired("a1", "r1").Token(t.Context())
	wantTokenError(t, err, record.ClassAmbiguous)
}
