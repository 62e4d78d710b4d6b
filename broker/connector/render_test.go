package connector

import (
	"encoding/json"
	"errors"
	"net/url"
	"strings"
	"testing"
)

func TestTemplatesRender(t *testing.T) {
	t.Parallel()
	tests := []struct {
		base     string
		settings map[string]any
		want     string
	}{
		{"https://api.acme.test/v1/", nil, "https://api.acme.test/v1/"},
		{"HTTPS://API.acme.test.:443/v1", nil, "https://api.acme.test:443/v1"},
		{"https://{sub}.acme.test/v1", map[string]any{"sub": "Mine-1"}, "https://mine-1.acme.test/v1"},
		{"https://eu-{sub}.acme.test:8443", map[string]any{"sub": "x"}, "https://eu-x.acme.test:8443"},
		{"https://api.acme.test/c/{id}/x", map[string]any{"id": json.Number("123")}, "https://api.acme.test/c/123/x"},
		{"https://api.acme.test/{id}", map[string]any{"id": 1e6}, "https://api.acme.test/1000000"},
		{"https://api.acme.test/{id}", map[string]any{"id": "a b?c#d%2Fe;ü"}, "https://api.acme.test/a%20b%3Fc%23d%252Fe%3B%C3%BC"},
		{"https://api.acme.test/bot{id}/x", map[string]any{"id": ".."}, "https://api.acme.test/bot../x"},
		{"{origin}/v1", map[string]any{"origin": "https://Mine.my.acme.test"}, "https://mine.my.acme.test/v1"},
		{"{origin}", map[string]any{"origin": "HTTPS://mine.my.acme.test/"}, "https://mine.my.acme.test"},
		{"{origin}", map[string]any{"origin": "https://exact.test:8443"}, "https://exact.test:8443"},
		{"", nil, ""},
	}
	for _, tt := range tests {
		d := Definition{ID: ID{"crm", "acme"}, BaseURL: tt.base, AllowHosts: []string{"*.my.acme.test", "exact.test:8443"}}
		got, err := renderBaseURL(&d, tt.settings)
		if err != nil || got != tt.want {
			t.Errorf("%s with %v: got %q, %v, want %q", tt.base, tt.settings, got, err, tt.want)
		}
	}
	d := Definition{TokenURL: "https://{sub}.acme.test/token?audience=x"}
	if got, err := d.RenderTokenURL(map[string]any{"sub": "a"}); err != nil || got != "https://a.acme.test/token?audience=x" {
		t.Errorf("token_url: got %q, %v", got, err)
	}
}

func TestSettingsThatDoNotFitATemplate(t *testing.T) {
	t.Parallel()
	const secret = "s3cret-value"
	long := strings.Repeat("a", 64)
	tests := []struct {
		base  string
		value any
	}{
		{"https://{x}.acme.test", nil},
		{"https://{x}.acme.test", ""},
		{"https://{x}.acme.test", "a.b"},
		{"https://{x}.acme.test", "a/" + secret},
		{"https://{x}.acme.test", "evil.test/"},
		{"https://{x}.acme.test", "evil.test#"},
		{"https://{x}.acme.test", "evil.test?"},
		{"https://{x}.acme.test", "a@b"},
		{"https://{x}.acme.test", "a:b"},
		{"https://{x}.acme.test", "-a"},
		{"https://{x}.acme.test", "a-"},
		{"https://{x}.acme.test", "a_b"},
		{"https://{x}.acme.test", long},
		{"https://{x}.acme.test", "ä"},
		{"https://{x}.acme.test", "a\r\n"},
		{"https://{x}.acme.test", true},
		{"https://{x}.acme.test", 1.5},
		{"https://{x}.acme.test", map[string]any{}},
		{"https://eu-{x}.acme.test", long[:63]},
		{"https://{x}.acme.test", "%61"},
		{"https://api.acme.test/{x}", "."},
		{"https://api.acme.test/{x}", ".."},
		{"https://api.acme.test/.{x}", "."},
		{"https://api.acme.test/{x}", ""},
		{"https://api.acme.test/{x}", "a/b"},
		{"https://api.acme.test/{x}", "a\\b"},
		{"https://api.acme.test/{x}", "a\nb"},
		{"{x}", "https://evil.test"},
		{"{x}", "https://a.b.my.acme.test"},
		{"{x}", "http://a.my.acme.test"},
		{"{x}", "https://a.my.acme.test/path"},
		{"{x}", "https://u:p@a.my.acme.test"},
		{"{x}", "https://a.my.acme.test?q"},
		{"{x}", "https://a.my.acme.test#f"},
		{"{x}", "https://a.my.acme.test\\@evil.test"},
		{"{x}", "a.my.acme.test"},
		{"{x}", "//a.my.acme.test"},
		{"{x}", "https://127.0.0.1"},
		{"{x}", "https://a.my.acme.test:8443"},
		{"{x}", "javascript://a.my.acme.test"},
	}
	for _, tt := range tests {
		d := Definition{ID: ID{"crm", "acme"}, BaseURL: tt.base, AllowHosts: []string{"*.my.acme.test"}}
		got, err := renderBaseURL(&d, map[string]any{"x": tt.value})
		var settingErr *SettingError
		if !errors.As(err, &settingErr) || settingErr.Setting != "x" {
			t.Errorf("%s with %q: got %q, %v, want a *SettingError for x", tt.base, tt.value, got, err)
			continue
		}
		if strings.Contains(err.Error(), secret) {
			t.Errorf("the error repeats the value: %v", err)
		}
	}
	d := Definition{ID: ID{"crm", "acme"}, BaseURL: "{x}", AllowHosts: []string{"10.0.0.1:80"}, AllowPrivate: true}
	if got, err := renderBaseURL(&d, map[string]any{"x": "http://10.0.0.1"}); err != nil || got != "http://10.0.0.1" {
		t.Errorf("with allow_private: got %q, %v", got, err)
	}
}

// FuzzTemplates checks that settings change nothing but their own label or segment.
func FuzzTemplates(f *testing.F) {
	for _, s := range []string{"mine", "a.b", "evil.test/", "..", "%2e%2e", "a@b", "ü", "a:1", "\r\n", "xn--a"} {
		f.Add(s, s, "https://"+s+".my.acme.test")
	}
	d := Definition{ID: ID{"crm", "acme"}, BaseURL: "https://{sub}.acme.test/a/{id}/z", TokenURL: "{origin}/token", AllowHosts: []string{"*.my.acme.test"}}
	f.Fuzz(func(t *testing.T, sub, id, origin string) {
		settings := map[string]any{"sub": sub, "id": id, "origin": origin}
		if s, err := renderBaseURL(&d, settings); err == nil {
			u, err := url.Parse(s)
			if err != nil {
				t.Fatalf("%q: %v", s, err)
			}
			if u.Scheme != "https" || u.User != nil || u.Port() != "" || u.RawQuery != "" || u.Fragment != "" {
				t.Errorf("%q with %q, %q", s, sub, id)
			}
			if label, ok := strings.CutSuffix(u.Host, ".acme.test"); !ok || !validLabel(label) {
				t.Errorf("host %q with %q", u.Host, sub)
			}
			segments := strings.Split(u.EscapedPath(), "/")
			if len(segments) != 4 || segments[1] != "a" || segments[3] != "z" || isDotSegment(segments[2]) || segments[2] == "" {
				t.Errorf("path %q with %q", u.EscapedPath(), id)
			}
			if got, _ := url.PathUnescape(segments[2]); got != id {
				t.Errorf("segment %q is not %q", got, id)
			}
		}
		if s, err := d.RenderTokenURL(settings); err == nil {
			u, err := url.Parse(s)
			if err != nil {
				t.Fatalf("%q: %v", s, err)
			}
			if u.Scheme != "https" || u.User != nil || u.Path != "/token" || u.RawQuery != "" || !strings.HasSuffix(u.Hostname(), ".my.acme.test") {
				t.Errorf("%q with %q", s, origin)
			}
		}
	})
}

// FuzzParseURLTemplate checks that a definition which passes Validate renders, if at all, to
// a URL that net/url reads the same way.
func FuzzParseURLTemplate(f *testing.F) {
	for _, s := range []string{"https://api.acme.test/v1", "https://{x}.acme.test:8443/{x}?q", "{o}/x", "https://[::1]:80/", "https://a@b/", "http://x.test/%2e%2e/", "https://x.test//a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d := Definition{
			ID: ID{"crm", "acme"}, AuthType: None, BaseURL: s, AllowHosts: []string{"o.test"}, AllowPrivate: true,
			Settings: []Setting{{Name: "x"}, {Name: "o", Origin: true}},
		}
		if s == "" || d.Validate() != nil {
			return
		}
		got, err := renderBaseURL(&d, map[string]any{"x": "x", "o": "https://o.test"})
		if err != nil {
			return // the host is too long
		}
		u, err := url.Parse(got)
		if err != nil {
			t.Fatalf("%q became %q: %v", s, got, err)
		}
		if u.User != nil || u.Fragment != "" || u.Host == "" {
			t.Errorf("%q became %q", s, got)
		}
		if err := d.AllowsHost(u.Scheme, u.Host, map[string]any{"x": "x", "o": "https://o.test"}); err != nil {
			t.Errorf("%q became %q, which is not allowed: %v", s, got, err)
		}
	})
}

// renderBaseURL returns base_url for a connection with these settings, empty if the
// definition has none.
func renderBaseURL(d *Definition, settings map[string]any) (string, error) {
	if d.BaseURL == "" {
		return "", nil
	}
	return d.renderURL(d.BaseURL, settings)
}
