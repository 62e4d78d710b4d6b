package fields

import (
	"context"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// stripKey is a credential in the query parameter key.
type stripKey struct{}

func (stripKey) WithoutCredential(query string) string {
	return strings.Trim(strings.Replace("&"+query+"&", "&key=REDACTED&", "&", 1), "&")
}

// at returns the response to a request that a caller sent to the broker at 127.0.0.1:8080.
func at(t testing.TB, policy Policy, asked, target string) *Response {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	policy.Own = &Authorities{}
	policy.Own.Set([]uint16{8080, 8081, 2019}, []string{"broker.test", "*.tenants.test"})
	ctx := context.WithValue(t.Context(), http.LocalAddrContextKey, net.Addr(&net.TCPAddr{IP: net.IPv4(10, 1, 2, 3), Port: 8080}))
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, asked, nil)
	if err != nil {
		t.Fatal(err)
	}
	return &Response{Policy: &policy, Caller: r, Scheme: u.Scheme, Host: u.Host, Path: u}
}

const removedHere = "(removed)"

func cleaned(r *Response, name, value string) string {
	header := http.Header{name: {value}}
	r.Clean(header, stripKey{})
	if _, ok := header[name]; !ok {
		return removedHere
	}
	return header[name][0]
}

func TestProxyAPIResolvesReferencesAgainstDownstream(t *testing.T) {
	t.Parallel()
	r := at(t, Policy{IsProxy: true}, "http://127.0.0.1:8080/proxy/contacts", "https://api.example.com/v2/contacts/?page=1")
	for value, want := range map[string]string{
		"/vault/consumers/jane":             "https://api.example.com/vault/consumers/jane",
		"7":                                 "https://api.example.com/v2/contacts/7",
		"../x":                              "https://api.example.com/v2/x",
		"../../../../vault/x":               "https://api.example.com/vault/x",
		"%2e%2e/x":                          "https://api.example.com/v2/x",
		"?page=2":                           "https://api.example.com/v2/contacts/?page=2",
		"?page=2&key=REDACTED":              "https://api.example.com/v2/contacts/?page=2",
		"/?key=REDACTED":                    "https://api.example.com/",
		"":                                  "https://api.example.com/v2/contacts/?page=1",
		"#top":                              "https://api.example.com/v2/contacts/?page=1#top",
		"./a;b=c,d/e%2Ff%zz?x=ü&&y#é":       "https://api.example.com/v2/contacts/a;b=c,d/e%2Ff%zz?x=ü&&y#é",
		"//cdn.example.com/x":               "https://cdn.example.com/x",
		"http://other.test":                 "http://other.test",
		"HTTPS://API.example.com/x":         "https://API.example.com/x",
		"https://other.test/?key=REDACTED&": "https://other.test/",
		"acme-app://callback?code=1":        "acme-app://callback?code=1",
		"mailto:jane@example.com":           "mailto:jane@example.com",
		"a:b":                               "a:b",
		// The broker's own authority, in any spelling.
		"http://127.0.0.1:8080/vault/x":               removedHere,
		"//127.0.0.1:8080/vault/x":                    removedHere,
		"https://127.0.0.1:8080/":                     removedHere,
		"http://127.0.0.1:08080/":                     removedHere,
		"http://u:p@127.0.0.1:8080/":                  removedHere,
		"http://x@y@127.0.0.1:8080/":                  removedHere,
		"http://other.Tenants.test:8080/vault":        removedHere,
		"http://a.b.tenants.test:8080/":               "http://a.b.tenants.test:8080/",
		"http://127.1:8080/":                          removedHere,
		"http://0x7f.1:8080/":                         removedHere,
		"http://2130706433:8080/":                     removedHere,
		"http://0177.0.0.1:8080/":                     removedHere,
		"http://127.0.0.1.:8080/":                     removedHere,
		"http://%31%32%37.0.0.1:8080/":                removedHere,
		"http://１２７.0.0.1:8080/":                      removedHere,
		"http://[::1]:8080/":                          removedHere,
		"http://[::ffff:127.0.0.1]:8080/":             removedHere,
		"http://[::]:8080/":                           removedHere,
		"http://0.0.0.0:8080/":                        removedHere,
		"http://0:8080/":                              removedHere,
		"http://LOCALHOST:8080/":                      removedHere,
		"http://local\u00adhost:8080/":                removedHere,
		"http://x.localhost.:8080/":                   removedHere,
		"http://127.0.0.1:8081/":                      removedHere,
		"http://127.0.0.1:2019/stop":                  removedHere,
		"http://127.0.0.1:9/a-service-on-the-machine": removedHere,
		"http://broker.test:8080/":                    removedHere,
		"http://10.1.2.3:8080/":                       removedHere,
		// What clients read differently.
		`\vault\x`: removedHere, `/\127.0.0.1:8080/`: removedHere, `https:\\x\y`: removedHere,
		"/\tvault": removedHere, "http:/vault": removedHere, "https:vault": removedHere,
		"///vault/x": removedHere, "http:///vault": removedHere,
		"http://127.0.0.1:x/": removedHere, "http://[::1/": removedHere, "http://1.2.3.4.5/": removedHere, "http://a%zz/": removedHere,
		// A backslash in the query is no slash.
		`/x?a=\b`: `https://api.example.com/x?a=\b`,
	} {
		if got := cleaned(r, "Location", value); got != want {
			t.Errorf("%q: got %q, want %q", value, got, want)
		}
	}
}

func TestReverseProxyKeepsReferencesOnItsSiteExceptIntoTheBroker(t *testing.T) {
	t.Parallel()
	r := at(t, Policy{}, "http://127.0.0.1:8080/acme/contacts", "https://api.example.com/contacts?key=1")
	r.Path.RawQuery = ""
	for value, want := range map[string]string{
		"/v2/x":                             "/v2/x",
		"x?page=2":                          "x?page=2",
		"?page=2&key=REDACTED":              "?page=2",
		"http://127.0.0.1:8080/v2/x":        "http://127.0.0.1:8080/v2/x",
		"//127.0.0.1:8080/v2/x":             "//127.0.0.1:8080/v2/x",
		"https://api.example.com/v2/x":      "https://api.example.com/v2/x",
		"/vault/consumers/jane":             "https://api.example.com/vault/consumers/jane",
		"/%76ault/consumers/jane":           "https://api.example.com/%76ault/consumers/jane",
		"../vault/x":                        "https://api.example.com/vault/x",
		"/a/../proxy":                       "https://api.example.com/proxy",
		"/prefix/vault/connections":         "https://api.example.com/prefix/vault/connections",
		"/vault%2Fconnections":              "https://api.example.com/vault%2Fconnections",
		"//127.0.0.1:8080/vault/x":          removedHere,
		"http://127.0.0.1:8080/x/../vault/": removedHere,
		"http://127.0.0.1:8081/v2":          removedHere,
		"http://localhost:8080/v2":          removedHere,
		`/\vault`:                           removedHere,
	} {
		if got := cleaned(r, "Location", value); got != want {
			t.Errorf("%q: got %q, want %q", value, got, want)
		}
	}
}

func TestDownstreamOnThisMachineMayNameItselfAndItsNeighbours(t *testing.T) {
	t.Parallel()
	r := at(t, Policy{IsProxy: true}, "http://127.0.0.1:8080/proxy", "http://127.0.0.1:8081/x")
	for value, want := range map[string]string{
		"/vault/x":                "http://127.0.0.1:8081/vault/x", // a service of this process, such as the sandbox
		"http://127.0.0.1:8081/y": "http://127.0.0.1:8081/y",
		"http://127.0.0.1:9000/y": "http://127.0.0.1:9000/y",
		"http://localhost:8081/y": removedHere,
		"http://127.0.0.1:8080/y": removedHere,
	} {
		if got := cleaned(r, "Location", value); got != want {
			t.Errorf("%q: got %q, want %q", value, got, want)
		}
	}
	loop := at(t, Policy{IsProxy: true}, "http://127.0.0.1:8080/proxy", "http://127.0.0.1:8080/x")
	if got := cleaned(loop, "Location", "/vault/x"); got != removedHere {
		t.Errorf("got %q from a downstream that is the broker, want nothing", got)
	}
}

func TestReferencesAreResolvedInEveryField(t *testing.T) {
	t.Parallel()
	r := at(t, Policy{IsProxy: true}, "http://127.0.0.1:8080/proxy", "https://api.example.com/v2/")
	for _, tt := range []struct{ name, value, want string }{
		{"Content-Location", "x", "https://api.example.com/v2/x"},
		{"Link", `</a>; rel="next"`, `<https://api.example.com/a>; rel="next"`},
		{
			"Link", `<?p=1,2>; rel=prev; title="a, <b>", </vault>;rel="next"; anchor="/x"; t=1 , <http://127.0.0.1:8080/vault>; rel=preload`,
			`<https://api.example.com/v2/?p=1,2>; rel=prev; title="a, <b>", <https://api.example.com/vault>;rel="next"; anchor="https://api.example.com/x"; t=1`,
		},
		{"Link", `<a>;anchor=#x`, `<https://api.example.com/v2/a>;anchor=https://api.example.com/v2/#x`},
		{"Link", "<a>;title=\"\xff\xff\xff\xff\xff\xff\xff\xff\";Anchor=/x", "<https://api.example.com/v2/a>;title=\"\xff\xff\xff\xff\xff\xff\xff\xff\";Anchor=https://api.example.com/x"},
		{"Link", "<a>;title=ȺȺȺȺȺȺȺȺȺȺ;anchor=", "<https://api.example.com/v2/a>;title=ȺȺȺȺȺȺȺȺȺȺ;anchor=https://api.example.com/v2/"},
		{"Link", `<a>; rel=preload; as=image; ImageSrcSet="/vault 1x"`, removedHere},
		{"Link", `/vault`, removedHere},
		{"Link", `<//127.0.0.1:8080/vault>`, removedHere},
		{"Refresh", "5", "5"},
		{"Refresh", "5; url=/vault", "5; url=https://api.example.com/vault"},
		{"Refresh", ` 0 ,URL = '/vault' x`, "0; url=https://api.example.com/vault"},
		{"Refresh", `0;"/vault"`, "0; url=https://api.example.com/vault"},
		{"Refresh", "0 /vault", "0; url=https://api.example.com/vault"},
		{"Refresh", "0;url=http://127.0.0.1:8080/vault", removedHere},
		{"Content-Security-Policy", "default-src 'self'", "default-src 'self'"},
		{
			"Content-Security-Policy", "default-src 'self'; Report-URI /csp http://127.0.0.1:8080/vault; sandbox, report-uri //127.0.0.1:8080/",
			"default-src 'self'; Report-URI https://api.example.com/csp; sandbox, ",
		},
		{"Www-Authenticate", `Basic realm="vault"`, `Basic realm="vault"`},
		{"Www-Authenticate", `Bearer resource_metadata="https://api.example.com/x"`, `Bearer resource_metadata="https://api.example.com/x"`},
		{"Www-Authenticate", `Bearer realm="http://127.0.0.1:8080/vault"`, removedHere},
		{"Www-Authenticate", `Bearer realm="//127.0.0.1:8080/vault"`, removedHere},
		{"Sourcemap", "x.map", "https://api.example.com/v2/x.map"},
		{"Hx-Redirect", "/vault", "https://api.example.com/vault"},
	} {
		if got := cleaned(r, tt.name, tt.value); got != tt.want {
			t.Errorf("%s: %s: got %q, want %q", tt.name, tt.value, got, tt.want)
		}
	}
}

func TestQuotesInARefreshHideNoReference(t *testing.T) {
	t.Parallel()
	r := at(t, Policy{}, "http://127.0.0.1:8080/x/y", "https://api.example.com/v2/")
	for _, value := range []string{`0; url="'/vault'"`, `0; url='"/vault"'`, `0; "'http://127.0.0.1:8080/vault'"`} {
		if got := cleaned(r, "Refresh", value); got != removedHere {
			t.Errorf("%s: got %q, want it removed", value, got)
		}
	}
}

// FuzzClean: nothing that downstream sends panics. For a 1xx response that would be in a
// goroutine of net/http, and end the process.
func FuzzClean(f *testing.F) {
	for _, seed := range []string{"<a>;title=\xff\xff\xff\xff\xff\xff;anchor=", `</a>; x="\`, "0;url='", "report-uri a;,;report-uri", `a="//`, "*, x"} {
		f.Add(seed, true)
		f.Add(seed, false)
	}
	f.Fuzz(func(t *testing.T, value string, isProxy bool) {
		r := at(t, Policy{IsProxy: isProxy, Vary: "a"}, "http://127.0.0.1:8080/x/y", "https://api.example.com/v2/")
		for _, name := range []string{"Link", "Refresh", "Content-Security-Policy", "Www-Authenticate", "Connection", "Location", "Vary", "Cache-Control"} {
			header := http.Header{name: {value}}
			r.Clean(header, stripKey{})
			r.Cache(header, http.MethodGet)
		}
	})
}

// FuzzResolve: no reference of downstream leads a client to the broker.
func FuzzResolve(f *testing.F) {
	for _, seed := range []string{"/vault", "//127.0.0.1:8080/vault", `\\127.1:8080`, "http://[::1]:8080/", "../x?y#z", "http://a@b@localhost:8080"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		r := at(t, Policy{IsProxy: true}, "http://127.0.0.1:8080/proxy", "https://api.example.com/v2/")
		got := cleaned(r, "Location", value)
		if got == removedHere {
			return
		}
		base, _ := url.Parse("http://127.0.0.1:8080/proxy")
		u, err := base.Parse(got)
		if err != nil {
			return // the client stops here
		}
		if u.Scheme == "http" || u.Scheme == "https" {
			if host := strings.TrimSuffix(strings.ToLower(u.Hostname()), "."); host == "127.0.0.1" || host == "localhost" || host == "" {
				t.Errorf("%q leads to %q", value, got)
			}
		}
	})
}
