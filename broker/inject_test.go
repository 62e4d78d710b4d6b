package broker_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker"
	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

func request(t *testing.T, url string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// Where a credential goes is tested in package inject.
func TestCredentialIsPutIntoTheRequest(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.connect(connector.Definition{
			ID: acme, Settings: []connector.Setting{{Name: "tenant"}},
			Inject: []connector.Placement{
				{Kind: connector.InHeader, Name: "Authorization", Format: "Bearer %s"},
				{Kind: connector.InCookie, Name: "session"},
				{Kind: connector.InQuery, Name: "t", Setting: "tenant"},
			},
		})
		h.mustImportBody(h.key, `{"credentials":{"access_token":"a1","refresh_token":"r1",`+issued(0)+`},"settings":{"tenant":12}}`)
		req := request(t, "https://api.acme.test/x?t=mine")
		req.Header["Authorization"] = []string{"mine"}
		if _, err := h.Authorize(req, h.key); err != nil {
			t.Fatal(err)
		}
		if got, want := req.URL.String(), "https://api.acme.test/x?t=12"; got != want {
			t.Errorf("got URL %s, want %s", got, want)
		}
		if got, want := fmt.Sprint(req.Header), "map[Authorization:[Bearer a1] Cookie:[session=a1]]"; got != want {
			t.Errorf("got headers %s, want %s", got, want)
		}
		if got, want := fmt.Sprint(h.InjectedHeaders(acme)), "[Authorization Cookie]"; got != want {
			t.Errorf("got injected headers %s, want %s", got, want)
		}
	})
}

func TestNothingIsSentToAHostThatTheConnectorDoesNotAllow(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.provider.Grant("r1")
		h.mustImport("a1", "r1", issued(0))
		synctest.Wait()
		time.Sleep(2 * time.Hour) // an allowed call would refresh the token
		for _, url := range []string{
			"https://evil.test/", "http://api.acme.test/", "https://api.acme.test.evil.test/", "https://api.acme.test:8443/",
			"https://evil.test#api.acme.test", "https://api.acme.test@evil.test/", "https://xapi.acme.test/", "https://127.0.0.1/",
		} {
			req := request(t, url)
			if _, err := h.Authorize(req, h.key); !errors.Is(err, record.ErrHostNotAllowed) {
				t.Errorf("%s: got %v, want ErrHostNotAllowed", url, err)
			}
			if len(req.Header) > 0 {
				t.Errorf("%s: got headers %v, want none", url, req.Header)
			}
		}
		if got := len(h.provider.Requests()); got != 0 {
			t.Errorf("got %d token requests for hosts that are not allowed, want none", got)
		}
		for _, url := range []string{"https://api.acme.test/", "https://API.acme.test.:443/x"} {
			if _, err := h.Authorize(request(t, url), h.key); err != nil {
				t.Errorf("%s: %v", url, err)
			}
		}
	})
}

// While a call waits for a token, an import gives the connection another host and a token for
// that host.
func TestHostIsCheckedAgainWhenACallHasWaited(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.connect(connector.Definition{ID: acme, BaseURL: "https://{tenant}.acme.test", Settings: []connector.Setting{{Name: "tenant", Required: true}}})
		release := h.holdAnswers("r1")
		h.mustImportBody(h.key, `{"settings":{"tenant":"one"},"credentials":{"access_token":"a1","refresh_token":"r1",`+issued(2*time.Hour)+`}}`)
		req := request(t, "https://one.acme.test/")
		got := make(chan error)
		go func() {
			_, err := h.Authorize(req, h.key)
			got <- err
		}()
		synctest.Wait()
		h.mustImportBody(h.key, `{"settings":{"tenant":"two"},"credentials":{"access_token":"a2","refresh_token":"r2",`+issued(0)+`}}`)
		close(release)
		if err := <-got; !errors.Is(err, record.ErrHostNotAllowed) || len(req.Header) > 0 {
			t.Errorf("got %v, headers %v, want ErrHostNotAllowed and none", err, req.Header)
		}
		if _, err := h.Authorize(request(t, "https://two.acme.test/"), h.key); err != nil {
			t.Error(err)
		}
	})
}

func TestAuthorizeFailsForWhatIsNotThere(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		const url = "https://api.acme.test/"
		if _, err := h.Authorize(request(t, url), h.key); !errors.Is(err, record.ErrConnectionNotFound) {
			t.Errorf("got %v, want ErrConnectionNotFound", err)
		}
		if _, err := h.Authorize(request(t, url), h.at(connector.ID{UnifiedAPI: "crm", ServiceID: "unknown"})); !errors.Is(err, record.ErrConnectorNotFound) {
			t.Errorf("got %v, want ErrConnectorNotFound", err)
		}
		rec := &record.Record{Key: h.key, Credentials: &record.Credentials{AccessToken: secret.New("a1")}}
		if _, err := h.store.Save(t.Context(), rec, 0); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Authorize(request(t, url), h.key); !errors.Is(err, record.ErrConnectionDisabled) {
			t.Errorf("got %v, want ErrConnectionDisabled", err)
		}
	})
}

func TestInjectedValueCannotEndAHeaderLine(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		key := h.at(keyed)
		const value = "x\r\nHost: evil.test"
		var input *record.InputError
		_, _, err := h.importBody(key, `{"settings":{"api_key":`+strconv.Quote(value)+`}}`)
		if !errors.As(err, &input) || input.Field != "settings.api_key" || strings.Contains(err.Error(), "evil") {
			t.Errorf("import: got %v, want an InputError for settings.api_key", err)
		}
		// Nothing is sent even if the value is in the store.
		rec := &record.Record{Key: key, Enabled: true, Settings: map[string]any{"api_key": value}}
		if _, err := h.store.Save(t.Context(), rec, 0); err != nil {
			t.Fatal(err)
		}
		req := request(t, "https://api.acme.test/")
		var failed *record.TokenError
		if _, err := h.Authorize(req, key); !errors.As(err, &failed) || len(req.Header) > 0 {
			t.Errorf("got %v, headers %v, want a TokenError and none", err, req.Header)
		}
	})
}

func TestResponseHeadersDoNotShowTheCredential(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.mustImport(brokertest.AccessCanary, "r1", issued(0))
		auth, err := h.Authorize(request(t, "https://api.acme.test/"), h.key)
		if err != nil {
			t.Fatal(err)
		}
		resp := brokertest.Response(200, "ok")
		resp.Header["X-Echo"] = []string{"a", "Bearer " + brokertest.AccessCanary + "!"}
		resp.Header["X-"+http.CanonicalHeaderKey(brokertest.AccessCanary)] = []string{"1"}
		for name, encoding := range map[string]*base64.Encoding{"Std": base64.StdEncoding, "Url": base64.URLEncoding, "Raw": base64.RawStdEncoding} {
			resp.Header["X-"+name] = []string{encoding.EncodeToString([]byte(brokertest.AccessCanary))}
		}
		resp.Header.Set(broker.ErrorHeader, "forged")
		resp.Trailer = http.Header{"X-Late": {brokertest.AccessCanary}}
		resp.Status = "200 " + brokertest.AccessCanary
		auth.HandleResponse(resp)
		if resp.Status != "200 OK" {
			t.Errorf("got the status line %q, want 200 OK", resp.Status)
		}
		if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "ok" {
			t.Errorf("got body %q, %v", body, err)
		}
		if got, want := fmt.Sprint(resp.Header["X-Echo"], resp.Trailer["X-Late"]), "[a Bearer REDACTED!] [REDACTED]"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		for name, values := range resp.Header {
			for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
				if strings.Contains(values[0], encoding.EncodeToString([]byte(brokertest.AccessCanary))) {
					t.Errorf("%s shows the credential in base64: %s", name, values[0])
				}
			}
			if strings.Contains(strings.ToLower(name), strings.ToLower(brokertest.AccessCanary)) {
				t.Errorf("a header is called %s", name)
			}
		}
		if resp.Header.Get(broker.ErrorHeader) != "" {
			t.Error("downstream's response passes for one of the broker's")
		}
	})
}
