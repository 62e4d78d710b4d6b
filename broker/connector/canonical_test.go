package connector

import (
	"strings"
	"testing"
)

func TestHostHasOneSpelling(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ scheme, host, want string }{
		{"https", "api.acme.test", "api.acme.test"},
		{"https", "API.Acme.Test", "api.acme.test"},
		{"https", "api.acme.test.", "api.acme.test"},
		{"https", "api.acme.test:443", "api.acme.test"},
		{"https", "api.acme.test.:443", "api.acme.test"},
		{"https", "api.acme.test:0443", "api.acme.test"},
		{"https", "api.acme.test:", "api.acme.test"},
		{"https", "api.acme.test:80", "api.acme.test:80"},
		{"http", "api.acme.test:80", "api.acme.test"},
		{"http", "api.acme.test:443", "api.acme.test:443"},
		{"https", "api.acme.test:08443", "api.acme.test:8443"},
		{"https", "mi\u00adne.acme.test", "mine.acme.test"}, // the soft hyphen maps to nothing
		{"https", "mi\u200bne.acme.test", "mine.acme.test"}, // and so does the zero width space
		{"https", "ﬁne.acme.test", "fine.acme.test"},        // a ligature
		{"https", "ＡＰＩ．acme。test", "api.acme.test"},         // full width, ideographic full stop
		{"https", "BÜCHER.acme.test", "xn--bcher-kva.acme.test"},
		{"https", "xn--bcher-kva.acme.test", "xn--bcher-kva.acme.test"},
		{"https", "127.0.0.1:443", "127.0.0.1"},
		{"https", "[::1]", "[::1]"},
		{"https", "[0:0:0:0:0:0:0:1]:443", "[::1]"},
		{"https", "[::FFFF:7F00:1]:8443", "127.0.0.1:8443"},
		{"https", "::1", "[::1]"},
		{"https", "１２７.0.0.1", "127.0.0.1"},
	} {
		got, err := CanonicalHost(tt.scheme, tt.host)
		if err != nil || got != tt.want {
			t.Errorf("%s %q: got %q, %v, want %q", tt.scheme, tt.host, got, err, tt.want)
		}
	}
	for _, host := range []string{
		"", ".", "user@acme.test", "acme.test:443:1", "acme.test:0", "acme.test:65536", "acme.test:x", "[fe80::1%eth0]", "[fe80::1%25eth0]",
		"acme%2etest", `acme.test\evil.test`, "acme.test/", "acme.test evil", "acme.test\t", "acme.test\r\n", "\u00ad", "acme.test\x00", "acme.test#", "acme.test?",
		"127.1", "0x7f000001", "2130706433", "[::1", "::1]", "[acme.test]", "a\xffcme.test", "acme.test:443\u00ad",
	} {
		if got, err := CanonicalHost("https", host); err == nil {
			t.Errorf("%q: got %q, want an error", host, got)
		}
	}
}

// FuzzCanonicalHost checks that the canonical spelling is its own, plain ASCII, and allowed
// exactly where the other one is.
func FuzzCanonicalHost(f *testing.F) {
	for _, host := range []string{
		"api.acme.test", "API.acme.test.:443", "mi\u00adne.acme.test", "ﬁne.acme.test", "[::ffff:7f00:1]", "acme。test", "xn--a", "1.2.3.4:80", "a_b.acme.test", "acme.test:00443",
	} {
		f.Add("https", host)
		f.Add("http", host)
	}
	d := &Definition{ID: ID{"crm", "acme"}, BaseURL: "https://api.acme.test", AllowHosts: []string{"*.acme.test", "127.0.0.1", "[::1]:8443"}, AllowPrivate: true}
	f.Fuzz(func(t *testing.T, scheme, host string) {
		canonical, err := CanonicalHost(scheme, host)
		allowed := d.AllowsHost(scheme, host, nil) == nil
		if err != nil {
			if allowed {
				t.Errorf("%q has no canonical spelling, but is allowed", host)
			}
			return
		}
		if again, err := CanonicalHost(scheme, canonical); canonical != again || err != nil && allowed {
			t.Errorf("%q is %q, which is %q, %v", host, canonical, again, err)
		}
		if scheme != "http" && scheme != "https" {
			return
		}
		if d.AllowsHost(scheme, canonical, nil) == nil != allowed {
			t.Errorf("%q: allowed is %t, but not for %q", host, allowed, canonical)
		}
		if allowed && strings.Trim(canonical, "abcdefghijklmnopqrstuvwxyz0123456789-._:[]") != "" {
			t.Errorf("%q is %q", host, canonical)
		}
	})
}

func BenchmarkCanonicalHost(b *testing.B) {
	for b.Loop() {
		if host, err := CanonicalHost("https", "acme.api.example.com:8443"); err != nil || host == "" {
			b.Fatal(err)
		}
	}
}
