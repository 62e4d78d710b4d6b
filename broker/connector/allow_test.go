package connector

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"testing"
)

func TestHostsThatACredentialMayGoTo(t *testing.T) {
	t.Parallel()
	plain := Definition{
		ID: ID{"crm", "acme"}, BaseURL: "https://api.acme.test/v1",
		AllowHosts: []string{"files.acme.test", "*.wild.test", "alt.acme.test:8443", "bücher.example", "Upper.ACME.test."},
	}
	private := Definition{
		ID: plain.ID, BaseURL: "http://127.0.0.1:9000", AllowPrivate: true,
		AllowHosts: []string{"[::1]:9000", "10.0.0.1", "local.test"},
	}
	tests := []struct {
		d            *Definition
		scheme, host string
		want         bool
	}{
		{&plain, "https", "api.acme.test", true},
		{&plain, "https", "api.acme.test:443", true},
		{&plain, "HTTPS", "API.Acme.TEST", true},
		{&plain, "https", "api.acme.test.", true},
		{&plain, "https", "api.acme.test.:443", true},
		{&plain, "https", "api.acme.test:", true},
		{&plain, "https", "api.acme.test:0443", true},
		{&plain, "https", "files.acme.test", true},
		{&plain, "https", "upper.acme.test", true},
		{&plain, "https", "a.wild.test", true},
		{&plain, "https", "xn--bcher-kva.example", true},
		{&plain, "https", "BÜCHER.example", true},
		{&plain, "https", "bu\u0308cher.example", true},
		{&plain, "https", "alt.acme.test:8443", true},
		{&plain, "https", "api。acme。test", true}, // IDNA's other dots

		{&plain, "http", "api.acme.test", false},
		{&plain, "", "api.acme.test", false},
		{&plain, "ftp", "api.acme.test", false},
		{&plain, "https", "api.acme.test:8443", false},
		{&plain, "https", "api.acme.test:80", false},
		{&plain, "https", "alt.acme.test", false},
		{&plain, "https", "acme.test", false},
		{&plain, "https", "x.api.acme.test", false},
		{&plain, "https", "evil-api.acme.test", false},
		{&plain, "https", "wild.test", false},
		{&plain, "https", "a.b.wild.test", false},
		{&plain, "https", ".wild.test", false},
		{&plain, "https", "*.wild.test", false},
		{&plain, "https", "user@api.acme.test", false},
		{&plain, "https", "api.acme.test@evil.test", false},
		{&plain, "https", "evil.test\\@api.acme.test", false},
		{&plain, "https", "api%2eacme.test", false},
		{&plain, "https", "%61pi.acme.test", false},
		{&plain, "https", "api.acme.test/", false},
		{&plain, "https", "api.acme.test?", false},
		{&plain, "https", "api.acme.test#", false},
		{&plain, "https", "api.acme.test..", false},
		{&plain, "https", "", false},
		{&plain, "https", ":443", false},
		{&plain, "https", "api.acme.test:443:443", false},
		{&plain, "https", "api.acme.test:99999", false},
		{&plain, "https", "api.acme.test:+443", false},
		{&plain, "https", "api.acme.test\x00", false},
		{&plain, "https", "127.0.0.1", false},
		{&plain, "https", "[::1]", false},
		{&plain, "https", "xn--bcher-kva.example.evil.test", false},
		{&plain, "https", "[64:ff9b::7f00:1]", false},  // NAT64
		{&plain, "https", "[::ffff:7f00:1]", false},    // IPv4-mapped
		{&plain, "https", "[::127.0.0.1]", false},      // IPv4-compatible
		{&plain, "https", "１２７.0.0.1", false},          // IDNA makes it 127.0.0.1
		{&plain, "https", "127。0。0。1", false},          // likewise
		{&plain, "https", "api.acme.test\u200b", true}, // IDNA drops it, net/http's too
		{&plain, "https", "аpi.acme.test", false},      // with a Cyrillic а
		{&plain, "https", "a.wild.test.", true},        // a trailing dot
		{&plain, "https", "a.wild.test.:443", true},
		{&plain, "https", "A.WILD.test:443", true},
		{&plain, "https", "xn--.wild.test", false}, // punycode of nothing
		{&plain, "https", "a..wild.test", false},
		{&plain, "https", "a.wild.test:443@evil.test", false},
		{&plain, "https", "evil.test?a.wild.test", false},
		{&plain, "https", "evil.test#a.wild.test", false},
		{&plain, "https", "evil.test\r\na.wild.test", false},

		{&private, "http", "127.0.0.1:9000", true},
		{&private, "http", "[::ffff:127.0.0.1]:9000", true},
		{&private, "http", "[::1]:9000", true},
		{&private, "http", "[0:0:0:0:0:0:0:1]:9000", true},
		{&private, "https", "local.test", true},
		{&private, "http", "local.test", true},
		{&private, "http", "10.0.0.1", true},
		{&private, "https", "10.0.0.1", true},
		{&private, "http", "127.0.0.1", false},
		{&private, "http", "127.1:9000", false},
		{&private, "http", "2130706433:9000", false},
		{&private, "http", "0x7f000001:9000", false},
		{&private, "http", "[::1%25lo]:9000", false},
		{&private, "http", "[127.0.0.1]:9000", false},
		{&private, "http", "[::1:9000", false},
		{&private, "http", "[::1]9000", false},
		{&private, "ftp", "local.test", false},
	}
	for _, tt := range tests {
		err := tt.d.AllowsHost(tt.scheme, tt.host, nil)
		if got := err == nil; got != tt.want {
			t.Errorf("%s://%s: %v, want allowed %t", tt.scheme, tt.host, err, tt.want)
		}
		var hostErr *HostError
		if err != nil && !errors.As(err, &hostErr) {
			t.Errorf("%s://%s: got %T, want *HostError", tt.scheme, tt.host, err)
		}
	}
	if err := plain.AllowsHost("https", "alice:s3cret@api.acme.test", nil); strings.Contains(err.Error(), "s3cret") {
		t.Errorf("the error repeats userinfo: %v", err)
	}
}

func TestATemplatedHostAllowsOnlyTheConnectionsOwn(t *testing.T) {
	t.Parallel()
	zen := Definition{
		ID: ID{"crm", "zen"}, BaseURL: "https://{subdomain}.zen.test", AllowHosts: []string{"*.zen.test", "cdn.zen.test"},
		Settings: []Setting{{Name: "subdomain", Required: true}},
	}
	force := Definition{
		ID: ID{"crm", "force"}, BaseURL: "{instance_url}", AllowHosts: []string{"*.my.force.test", "login.force.test"},
		Settings: []Setting{{Name: "instance_url", Required: true, Origin: true}},
	}
	tests := []struct {
		d        *Definition
		settings map[string]any
		host     string
		want     bool
	}{
		{&zen, map[string]any{"subdomain": "Mine"}, "mine.zen.test", true},
		{&zen, map[string]any{"subdomain": "mine"}, "cdn.zen.test", true},
		{&zen, map[string]any{"subdomain": "mine"}, "other.zen.test", false},
		{&zen, map[string]any{"subdomain": "evil.test/"}, "evil.test", false},
		{&zen, nil, "mine.zen.test", false},
		{&zen, nil, "cdn.zen.test", true},
		{&force, map[string]any{"instance_url": "https://mine.my.force.test"}, "mine.my.force.test", true},
		{&force, map[string]any{"instance_url": "https://mine.my.force.test"}, "other.my.force.test", false},
		{&force, map[string]any{"instance_url": "https://mine.my.force.test"}, "login.force.test", true},
		{&force, map[string]any{"instance_url": "https://evil.test"}, "evil.test", false},
		{&force, nil, "mine.my.force.test", false},
	}
	for _, tt := range tests {
		if err := tt.d.AllowsHost("https", tt.host, tt.settings); (err == nil) != tt.want {
			t.Errorf("%v, %s: %v, want allowed %t", tt.settings, tt.host, err, tt.want)
		}
	}
	// A setting in the path alone leaves the host as it is, and wildcards with it.
	path := Definition{ID: ID{"crm", "p"}, BaseURL: "https://api.p.test/{realm}", AllowHosts: []string{"*.p.test"}}
	for _, host := range []string{"api.p.test", "x.p.test"} {
		if err := path.AllowsHost("https", host, nil); err != nil {
			t.Error(err)
		}
	}
}

// dialled returns the address that net/http connects to for a URL, and the name that it
// asks the certificate for.
func dialled(t *testing.T, rawURL string) (address string, ok bool) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, rawURL, nil)
	if err != nil {
		return "", false // no request can be sent there
	}
	note := func(_ context.Context, _, addr string) (net.Conn, error) {
		address, ok = addr, true
		return nil, errors.New("noted")
	}
	transport := &http.Transport{DialContext: note, DialTLSContext: note}
	if resp, err := transport.RoundTrip(req); err == nil {
		_ = resp.Body.Close()
	}
	return address, ok
}

// FuzzAllowsHost checks that a host which is allowed is still one of the intended hosts after
// net/url and net/http have turned it into an address.
func FuzzAllowsHost(f *testing.F) {
	for _, s := range []string{
		"api.acme.test", "a.wild.test:443", "API.ACME.TEST.", "a@api.acme.test", "api.acme.test:443@evil.test",
		"[::1]", "api.acme.test%00.evil.test", "ａｐｉ.acme.test", "api.acme.test\\.evil.test", "bücher.wild.test",
		"a。wild。test", "faß.wild.test", "xn--a.wild.test", "a.wild.test:0443", "a\u200d.wild.test",
		"10.0.0.1:8443", "[::ffff:10.0.0.1]:8443", "[64:ff9b::a00:1]:8443", "012.0.0.1:8443", "10.1:8443", "[fe80::1%25lo]:8443",
	} {
		f.Add(s)
	}
	public := Definition{ID: ID{"crm", "acme"}, BaseURL: "https://api.acme.test", AllowHosts: []string{"*.wild.test"}}
	private := Definition{ID: public.ID, BaseURL: "https://10.0.0.1:8443", AllowHosts: []string{"[fd00::1]"}, AllowPrivate: true}
	f.Fuzz(func(t *testing.T, s string) {
		for _, d := range []*Definition{&public, &private} {
			if d.AllowsHost("https", s, nil) != nil {
				continue
			}
			u, err := url.Parse("https://" + s)
			if err != nil {
				continue
			}
			if u.User != nil || u.Path != "" || u.RawQuery != "" || u.Fragment != "" {
				t.Errorf("%q is more than a host", s)
			}
			address, ok := dialled(t, u.String())
			if !ok {
				continue
			}
			host, port, err := net.SplitHostPort(address)
			if err != nil {
				t.Fatalf("%q: address %q: %v", s, address, err)
			}
			if number, err := strconv.Atoi(port); err == nil {
				port = strconv.Itoa(number) // "0443"
			}
			host = strings.ToLower(strings.TrimSuffix(host, "."))
			if ip, err := netip.ParseAddr(host); err == nil {
				host = ip.Unmap().String()
			}
			label, parent, _ := strings.Cut(host, ".")
			switch to := net.JoinHostPort(host, port); {
			case d == &private && (to == "10.0.0.1:8443" || to == "[fd00::1]:443"):
			case d == &public && (to == "api.acme.test:443" || parent == "wild.test" && validLabel(label) && port == "443"):
			default:
				t.Errorf("%q is allowed and goes to %s", s, to)
			}
		}
	})
}
