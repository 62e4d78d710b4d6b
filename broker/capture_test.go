package broker_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/connector"
)

// capturing makes acme's token endpoint name the site in each of its answers.
func (h *harness) capturing(site string) {
	h.connect(connector.Definition{
		ID: acme, BaseURL: "{site}", AllowHosts: []string{"*.acme.test"}, Capture: map[string]string{"site": "urls.rest"},
		Settings: []connector.Setting{{Name: "site", Required: true, Origin: true}},
	})
	h.provider.Respond = func(int, url.Values) (*http.Response, error) {
		return brokertest.Response(http.StatusOK, map[string]any{
			"access_token": "a2", "refresh_token": "r2", "expires_in": 3600, "urls": map[string]any{"rest": site},
		}), nil
	}
}

func TestSettingFollowsTheTokenResponse(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.capturing("https://two.acme.test")
		h.mustImportBody(h.key, `{"settings":{"site":"https://one.acme.test"},"credentials":{"access_token":"a1","refresh_token":"r1",`+issued(2*time.Hour)+`}}`)
		if got := h.token(h.key); got != "a2" {
			t.Fatalf("got token %s", got)
		}
		if got := h.record(h.key).Settings["site"]; got != "https://two.acme.test" {
			t.Errorf("got site %v", got)
		}
		if _, err := h.Authorize(request(t, "https://two.acme.test/"), h.key); err != nil {
			t.Error(err)
		}
		if _, err := h.Authorize(request(t, "https://one.acme.test/"), h.key); err == nil {
			t.Error("the credential may still go to the host from before")
		}
	})
}

func TestSettingDoesNotFollowToAHostThatTheConnectorDoesNotAllow(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.capturing("https://evil.test")
		h.mustImportBody(h.key, `{"settings":{"site":"https://one.acme.test"},"credentials":{"access_token":"a1","refresh_token":"r1",`+issued(2*time.Hour)+`}}`)
		if got := h.token(h.key); got != "a2" {
			t.Fatalf("got token %s, want the new one all the same", got)
		}
		if got := h.record(h.key).Settings["site"]; got != "https://one.acme.test" {
			t.Errorf("got site %v", got)
		}
		if log := h.log.String(); !strings.Contains(log, "settings that the connector does not allow") || strings.Contains(log, "evil") {
			t.Errorf("the log does not warn, or shows the value:\n%s", log)
		}
	})
}

func TestConstantHeadersGoWithEveryCallUnlessTheCallerSetsThem(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.connect(connector.Definition{ID: acme, Headers: map[string]string{"x-version": "7", "User-Agent": "acme/1"}})
		h.mustImport("a1", "r1", issued(0))
		for sent, want := range map[string]string{"": "7 acme/1", "8": "8 acme/1"} {
			req := request(t, "https://api.acme.test/")
			req.Header["User-Agent"] = []string{""} // as the proxy has it for callers without one
			if sent != "" {
				req.Header.Set("X-Version", sent)
			}
			if _, err := h.Authorize(req, h.key); err != nil {
				t.Fatal(err)
			}
			if got := req.Header.Get("X-Version") + " " + req.Header.Get("User-Agent"); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		}
	})
}
