package tests

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/tests/oauthserver"
)

const (
	leakPassword = "password-" + brokertest.SettingCanary
	leakKey      = "key-" + brokertest.SettingCanary
)

// withEveryPlace adds connectors that cover the grants and placements of credentials that the
// deployment's own connectors do not.
func (d *deployment) withEveryPlace(t *testing.T) {
	t.Helper()
	revocation := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Echo", r.Header.Get("Authorization"))
		w.WriteHeader(http.StatusBadRequest)
		_, _ = fmt.Fprintf(w, `{"error": %q, "error_description": %q}`, sent, sent)
	}))
	t.Cleanup(revocation.Close)
	client := fmt.Sprintf("client_id %s\nclient_secret %s\n", oauthserver.ClientID, d.secretFile(t, "client-secret", d.clientSecret))
	for name, lines := range map[string]string{
		"owner":  "auth_type oauth2\ngrant_type password\nauth_style header\ntoken_url " + d.provider.TokenURL + "\n" + client,
		"tenant": "auth_type oauth2\ngrant_type client_credentials\nauth_style params\ntoken_url " + d.provider.TokenURL + "\nsetting client_id required\nsetting client_secret required sensitive\n",
		"echo": "auth_type oauth2\nauth_style header\ntoken_url " + d.provider.TokenURL + "\nrevocation_url " + revocation.URL + "/revoke\n" +
			"inject header X-Token \"token=%s\"\ninject query access\n" + client,
		"cookie": "auth_type apiKey\ninject cookie session\n",
		"query":  "auth_type apiKey\ninject query key\n",
		"login":  "auth_type basic\n",
	} {
		d.broker += fmt.Sprintf("connector crm/%s {\nbase_url %s\nallow_private\n%s}\n", name, d.provider.APIURL, lines)
		d.site += "\n" + sidecarPath(name, "crm/"+name, d.provider.APIURL)
	}
}

// places imports credentials of each kind and uses them, through the sidecar and the proxy, with
// a downstream that echoes them.
func (s *scene) places() {
	s.d.provider.OnAPI(func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		sent := r.Header.Get("Authorization") + r.Header.Get("X-Token") + r.Header.Get("Cookie") + r.URL.RawQuery
		w.Header().Set("X-Echo", sent)
		w.Header().Set("Location", "https://example.com/?"+r.URL.RawQuery)
		w.WriteHeader(http.StatusFound)
	})
	defer s.d.provider.OnAPI(nil)
	login := s.d.provider.Login(s.t, consumer, 0)
	for name, body := range map[string]string{
		"machine": `{}`,
		"tenant":  fmt.Sprintf(`{"settings": {"client_id": %q, "client_secret": %q}}`, oauthserver.ClientID, s.d.clientSecret),
		"owner":   fmt.Sprintf(`{"settings": {"username": "ann", "password": %q}}`, leakPassword),
		"echo":    tokensBody(s.t, login, nil),
		"cookie":  fmt.Sprintf(`{"settings": {"api_key": %q}}`, leakKey),
		"query":   fmt.Sprintf(`{"settings": {"api_key": %q}}`, leakKey),
		"login":   fmt.Sprintf(`{"settings": {"username": "ann", "password": %q}}`, leakPassword),
	} {
		wantNoCanaryInAnswer(s.t, "the response to an import", s.p.importBody(s.t, "crm/"+name, consumer, body)).connection(s.t)
		for way, got := range map[string]answer{
			"the sidecar": s.p.call(s.t, "/"+name+"/open/things", consumer),
			"the proxy": sendProxied(s.t, s.p.proxied(s.t.Context(), s.t, http.MethodGet, "", s.d.provider.APIURL+"/open/things", nil,
				"X-Apideck-Unified-Api", "crm", "X-Apideck-Service-Id", name)),
		} {
			wantNoCanaryInAnswer(s.t, "the response to a call through "+way+" to "+name, got)
			if got.status != http.StatusFound || !strings.Contains(got.header.Get("X-Echo"), "REDACTED") {
				s.t.Errorf("%s through %s = %v, want the echo of downstream, scrubbed", name, way, got)
			}
		}
	}
}

// proxy makes calls to the Proxy API that bring their own credential, or ask for one where none
// may be sent.
func (s *scene) proxy() {
	to := s.d.provider.APIURL + "/open/things"
	for _, call := range []struct {
		what, url string
		header    []string
		status    int
	}{
		{"the caller's own credential", to, []string{"X-Apideck-Downstream-Authorization", "Bearer " + brokertest.AccessCanary}, http.StatusOK},
		{"the caller's own credential for another host", "https://elsewhere.test/", []string{"X-Apideck-Downstream-Authorization", "Bearer " + brokertest.AccessCanary}, http.StatusForbidden},
		{"a sensitive setting", s.d.provider.APIURL + "/{secret_note}", nil, http.StatusUnprocessableEntity},
		{"another host", "https://elsewhere.test/", nil, http.StatusForbidden},
	} {
		header := append([]string{"X-Apideck-Unified-Api", "crm", "X-Apideck-Service-Id", "acme"}, call.header...)
		got := sendProxied(s.t, s.p.proxied(s.t.Context(), s.t, http.MethodGet, "", call.url, nil, header...))
		if wantNoCanaryInAnswer(s.t, "the response of the proxy", got).status != call.status {
			s.t.Errorf("%s: the response of the proxy is %v, want %d", call.what, got, call.status)
		}
	}
}

// management lists, changes, validates and deletes connections, and sends requests that are
// refused.
func (s *scene) management() {
	const leaving = "leaving"
	for _, connector := range []string{acme, "crm/echo"} {
		s.p.importBody(s.t, connector, leaving, tokensBody(s.t, s.d.provider.Login(s.t, leaving, 0), nil)).connection(s.t)
	}
	s.p.importBody(s.t, keyed, leaving, `{"settings": {"api_key": "`+leakKey+`"}}`).connection(s.t)
	note := `{"settings": {"secret_note": "` + brokertest.SettingCanary + `"}}`
	for _, request := range []struct {
		method, path, body string
		status             int
	}{
		{http.MethodGet, "connections", "", http.StatusOK},
		{http.MethodPatch, "connections/" + acme, note, http.StatusOK},
		{http.MethodPatch, "connections/" + acme, `{"enabled": "` + brokertest.SettingCanary + `"}`, http.StatusBadRequest},
		{http.MethodPatch, "connections/" + acme, note + note, http.StatusBadRequest},
		{http.MethodPost, "connections/" + acme + "/validate", "", http.StatusOK},
		{http.MethodPost, "connections/" + keyed + "/validate", "", http.StatusOK},
		{http.MethodPost, "connections/" + keyed + "/validate", note, http.StatusBadRequest},
		{http.MethodPost, "connections/" + acme + "/token", "", http.StatusUnprocessableEntity},
		{http.MethodGet, "connections/" + acme, "", http.StatusOK},
		{http.MethodDelete, "connections/" + acme, "", http.StatusNoContent},
		{http.MethodDelete, "connections/crm/echo", "", http.StatusNoContent}, // the provider refuses to revoke
		{http.MethodDelete, "consumers/" + leaving, "", http.StatusOK},
	} {
		got := s.p.api(s.t, request.method, request.path, leaving, request.body)
		if wantNoCanaryInAnswer(s.t, "the response of the API", got).status != request.status {
			s.t.Errorf("%s %s %s = %v, want %d", request.method, request.path, request.body, got, request.status)
		}
	}
	got := s.p.api(s.t, http.MethodPost, "connections/"+machine+"/token", consumer, "")
	wantNoCanaryInAnswer(s.t, "the response to a request for a token", got).connection(s.t)
	eventually(s.t, "the refused revocation in the log", func() error {
		if !strings.Contains(s.p.log.String(), "could not be revoked") {
			return errors.New("it is not in the log")
		}
		return nil
	})
}
