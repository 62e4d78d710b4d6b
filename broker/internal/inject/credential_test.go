package inject

import (
	"encoding/base64"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// prepare renders the placements for a connection with settings and the access token a1.
func prepare(t *testing.T, placements ...connector.Placement) (*Credential, *connector.Definition) {
	t.Helper()
	def := connector.Definition{
		ID: connector.ID{UnifiedAPI: "crm", ServiceID: "acme"}, AuthType: connector.OAuth2,
		TokenURL: "https://auth.acme.test/token", AuthStyle: connector.AuthHeader, BaseURL: "https://api.acme.test",
		Settings: []connector.Setting{{Name: "user"}, {Name: "api_key", Sensitive: true}, {Name: "tenant"}}, Inject: placements,
	}
	def = def.WithDefaults()
	if err := def.Validate(); err != nil {
		t.Fatal(err)
	}
	injections, err := def.Injections(map[string]any{"user": "u", "api_key": "k/&= 1", "tenant": 12}, "a1")
	if err != nil {
		t.Fatal(err)
	}
	return Prepare(injections), &def
}

func request(t *testing.T, url string, header http.Header) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = header
	return req
}

func wantHeader(t *testing.T, got, want http.Header) {
	t.Helper()
	if !maps.EqualFunc(got, want, slices.Equal) {
		t.Errorf("got headers %v, want %v", got, want)
	}
}

func TestCredentialIsPutWhereTheConnectorSays(t *testing.T) {
	t.Parallel()
	const url = "https://api.acme.test/"
	for name, test := range map[string]struct {
		inject  []connector.Placement
		url     string // default: url
		wantURL string // default: url
		want    http.Header
	}{
		"header": {
			inject: []connector.Placement{{Kind: connector.InHeader, Name: "Authorization", Format: "Bearer %s"}},
			url:    url + "x?a=1", wantURL: url + "x?a=1",
			want: http.Header{"Authorization": {"Bearer a1"}},
		},
		"setting in a header": {
			inject: []connector.Placement{{Kind: connector.InHeader, Name: "x-api-key", Setting: "api_key"}},
			want:   http.Header{"X-Api-Key": {"k/&= 1"}},
		},
		"two headers": {
			inject: []connector.Placement{
				{Kind: connector.InHeader, Name: "Authorization", Format: "Bearer %s"},
				{Kind: connector.InHeader, Name: "X-Tenant", Format: "t-%s", Setting: "tenant"},
			},
			want: http.Header{"Authorization": {"Bearer a1"}, "X-Tenant": {"t-12"}},
		},
		"basic": {
			inject: []connector.Placement{{Kind: connector.InBasic, Setting: "user", PasswordSetting: "api_key"}},
			want:   http.Header{"Authorization": {"Basic dTprLyY9IDE="}},
		},
		"basic, an API key and no password": {
			inject: []connector.Placement{{Kind: connector.InBasic, Setting: "api_key"}},
			want:   http.Header{"Authorization": {"Basic ay8mPSAxOg=="}},
		},
		"basic, text around settings": {
			inject: []connector.Placement{{Kind: connector.InBasic, Username: "{user}/token", Password: "{api_key}-{tenant}"}},
			want:   http.Header{"Authorization": {"Basic dS90b2tlbjprLyY9IDEtMTI="}},
		},
		"query": {
			inject:  []connector.Placement{{Kind: connector.InQuery, Name: "key", Setting: "api_key"}},
			url:     url + "?b=%20&key=mine&k%65y=mine&c=+&a;b&a;key=mine&%zz=1",
			wantURL: url + "?b=%20&c=+&a;b&a&%zz=1&key=k%2F%26%3D+1",
		},
		"query, access token": {
			inject:  []connector.Placement{{Kind: connector.InQuery, Name: "token"}},
			wantURL: url + "?token=a1",
		},
		"cookie, another and a query": {
			inject: []connector.Placement{
				{Kind: connector.InCookie, Name: "session"},
				{Kind: connector.InCookie, Name: "tenant", Setting: "tenant"},
				{Kind: connector.InQuery, Name: "t", Setting: "tenant"},
			},
			want:    http.Header{"Cookie": {"mine; mine too; mine; session=a1; tenant=12"}},
			wantURL: url + "?t=12",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if test.url == "" {
				test.url = url
			}
			if test.wantURL == "" {
				test.wantURL = url
			}
			header := make(http.Header)
			for name := range test.want { // what the caller sent is replaced, in any spelling
				header[strings.ToLower(name)] = []string{"mine"}
				header[name] = []string{"mine", "mine too"}
			}
			req := request(t, test.url, header)
			cred, _ := prepare(t, test.inject...)
			cred.Put(req)
			if got := req.URL.String(); got != test.wantURL {
				t.Errorf("got URL %s, want %s", got, test.wantURL)
			}
			wantHeader(t, req.Header, test.want)
		})
	}
}

func TestInjectedCookieReplacesOnlyItsNamesakes(t *testing.T) {
	t.Parallel()
	cred, def := prepare(t, connector.Placement{Kind: connector.InCookie, Name: "session"})
	req := request(t, "https://api.acme.test/", http.Header{
		"Cookie": {"a=1; session=mine;session=2", "Session=other; b=\"x\""},
		"cookie": {"session = mine"},
	})
	cred.Put(req)
	wantHeader(t, req.Header, http.Header{"Cookie": {`a=1; Session=other; b="x"; session=a1`}})
	if got, want := Headers(def), []string{"Cookie"}; !slices.Equal(got, want) {
		t.Errorf("got injected headers %v, want %v", got, want)
	}
}

func TestHeadersAreNamedOnceAndCanonically(t *testing.T) {
	t.Parallel()
	_, def := prepare(t,
		connector.Placement{Kind: connector.InBasic, Setting: "user"},
		connector.Placement{Kind: connector.InHeader, Name: "x-api-key"},
		connector.Placement{Kind: connector.InCookie, Name: "a"},
		connector.Placement{Kind: connector.InCookie, Name: "b"},
		connector.Placement{Kind: connector.InQuery, Name: "t"},
	)
	if got, want := Headers(def), []string{"Authorization", "X-Api-Key", "Cookie"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// Requests share a credential, so none may see what another got.
func TestCredentialIsSharedUnchanged(t *testing.T) {
	t.Parallel()
	cred, _ := prepare(t,
		connector.Placement{Kind: connector.InHeader, Name: "X-Token"},
		connector.Placement{Kind: connector.InCookie, Name: "session"},
		connector.Placement{Kind: connector.InQuery, Name: "token"},
	)
	for range 2 {
		req := request(t, "https://api.acme.test/", make(http.Header))
		cred.Put(req)
		cred.Put(req) // as for a second attempt
		wantHeader(t, req.Header, http.Header{"X-Token": {"a1"}, "Cookie": {"session=a1"}})
		if got, want := req.URL.String(), "https://api.acme.test/?token=a1"; got != want {
			t.Errorf("got URL %s, want %s", got, want)
		}
		req.Header.Set("X-Token", "changed")
		req.Header.Add("Cookie", "more")
	}
	if got, want := cred.Size(), len("a1")*3; got != want {
		t.Errorf("got size %d, want %d", got, want)
	}
}

func TestSuppliedCredentialIsAuthorization(t *testing.T) {
	t.Parallel()
	for value, echo := range map[string]string{
		"Bearer " + brokertest.AccessCanary: "token=" + brokertest.AccessCanary,
		brokertest.AccessCanary:             "token=" + brokertest.AccessCanary,
	} {
		cred := Supplied(secret.New(value))
		req := request(t, "https://api.acme.test/", http.Header{"authorization": {"mine"}})
		cred.Put(req)
		wantHeader(t, req.Header, http.Header{"Authorization": {value}})
		if cred.Size() != len(value) {
			t.Errorf("got size %d, want %d", cred.Size(), len(value))
		}
		header := http.Header{"X-Echo": {echo, value}}
		cred.Scrub(header)
		brokertest.NoCanary(t, "a scrubbed header", []byte(strings.Join(header["X-Echo"], " ")))
	}
}

func TestScrubFindsEveryFormOfTheCredential(t *testing.T) {
	t.Parallel()
	const key = "k/&= 1~?>" // differs in all forms
	cred := Prepare([]connector.Injection{{Kind: connector.InHeader, Name: "X-Api-Key", Value: key, Secrets: []string{key}}})
	for form, value := range map[string]string{
		"plain":             key,
		"query":             "k%2F%26%3D+1~%3F%3E",
		"path":              "k%2F&=%201~%3F%3E",
		"base64":            base64.StdEncoding.EncodeToString([]byte(key)),
		"base64url":         base64.URLEncoding.EncodeToString([]byte(key)),
		"base64, unpadded":  base64.RawStdEncoding.EncodeToString([]byte(key)),
		"lower-case escape": "k%2f%26%3d%201~%3f%3e",
	} {
		header := http.Header{"X-Echo": {"before " + value + " after", "unrelated"}}
		cred.Scrub(header)
		if got := header["X-Echo"]; !strings.HasPrefix(got[0], "before REDACTED") || !strings.HasSuffix(got[0], " after") || got[1] != "unrelated" {
			t.Errorf("%s: got %q", form, got)
		}
	}
}

func TestScrubRemovesHeadersNamedAfterTheCredential(t *testing.T) {
	t.Parallel()
	cred := Prepare([]connector.Injection{{Kind: connector.InQuery, Name: "t", Value: "SeCret", Secrets: []string{"SeCret"}}})
	header := http.Header{"X-Secret-1": {"1"}, "X-Sec": {"2"}}
	cred.Scrub(header)
	wantHeader(t, header, http.Header{"X-Sec": {"2"}})
}

func TestAfterBodyWaitsForTrailers(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		resp http.Response
		want bool
	}{
		"chunked":               {http.Response{ProtoMajor: 1, ContentLength: -1}, true},
		"known length":          {http.Response{ProtoMajor: 1, ContentLength: 2}, false},
		"announced trailer":     {http.Response{ProtoMajor: 1, ContentLength: 2, Trailer: http.Header{"X": nil}}, true},
		"HTTP/2":                {http.Response{ProtoMajor: 2, ContentLength: 2}, true},
		"a switch of protocols": {http.Response{ProtoMajor: 1, ContentLength: -1, StatusCode: http.StatusSwitchingProtocols}, false},
	} {
		test.resp.Body = io.NopCloser(strings.NewReader("ok"))
		called := false
		if MayHaveTrailers(&test.resp) {
			AfterBody(&test.resp, func() { called = true })
		}
		if called {
			t.Errorf("%s: called before the body was read", name)
		}
		if body, err := io.ReadAll(test.resp.Body); err != nil || string(body) != "ok" {
			t.Errorf("%s: got body %q, %v", name, body, err)
		}
		if called != test.want {
			t.Errorf("%s: called %v, want %v", name, called, test.want)
		}
	}
	if MayHaveTrailers(&http.Response{ProtoMajor: 1, ContentLength: -1}) {
		t.Error("a response without a body may have trailers")
	}
}
