package connector

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"
)

// shop is a connector whose host depends on a setting, and dynamics one whose origin does.
var (
	shop = &Definition{
		ID: ID{"ecommerce", "shop"}, AuthType: OAuth2, BaseURL: "https://{subdomain}.shop.example/api",
		AllowHosts: []string{"*.shop.example", "login.shop.example"},
		Settings:   []Setting{{Name: "subdomain"}, {Name: "api_key", Sensitive: true}, {Name: "tenant", Sensitive: false}},
	}
	dynamics = &Definition{
		ID: ID{"crm", "dynamics"}, AuthType: OAuth2, BaseURL: "{organisation_url}", AllowHosts: []string{"*.crm.dynamics.example"},
		Settings: []Setting{{Name: "organisation_url", Origin: true}},
	}
)

func TestTargetIsFilledInFromSettings(t *testing.T) {
	t.Parallel()
	settings := map[string]any{
		"subdomain": "Acme", "organisation_url": "https://org.crm.dynamics.example/", "account": "a b/c", "team": "x&y=z#+é",
		"number": json.Number("42"), "plain": "p?q", "Region-1": "eu", "dots": "..", "line": "a\r\nb", "empty": "", "list": []any{"x"},
		"api_key": "secret-value", "client_secret": "secret-value", "long": strings.Repeat("x", 64), "host": "evil.example",
		"evil": "evil.example/", "at": "x@evil.example",
	}
	for _, tt := range []struct {
		def    *Definition
		target string
		want   string // if it has no scheme, a part of the error
	}{
		{shop, "https://{subdomain}.shop.example/v1", "https://acme.shop.example/v1"},
		{shop, "HTTPS://{subdomain}.Shop.Example.:443/v1?", "https://acme.shop.example/v1?"},
		{shop, "https://{subdomain}.shop.example:8443", "https://acme.shop.example:8443"},
		{shop, "https://x.example/{number}/{plain}/{Region-1}?team={team}&n={number}", "https://x.example/42/p%3Fq/eu?team=x%26y%3Dz%23%2B%C3%A9&n=42"},
		{shop, "https://x.example/x{number}y?q={number}{number}", "https://x.example/x42y?q=4242"},
		{shop, "https://x.example/{1}/{}/{a b}/{{number}}?q={", "https://x.example/%7B1%7D/%7B%7D/%7Ba%20b%7D/%7B42%7D?q=%7B"},
		{dynamics, "{organisation_url}/api/data?$select=name", "https://org.crm.dynamics.example/api/data?$select=name"},
		{dynamics, "{organisation_url}", "https://org.crm.dynamics.example"},

		{shop, "https://x.example/{account}", "setting account must be one segment"},
		{shop, "https://x.example/{dots}", "must not have . or .."},
		{shop, "https://x.example/.{dots}/", "https://x.example/.../"},
		{shop, "https://x.example/{line}", "setting line must be one segment"},
		{shop, "https://x.example/?q={line}", "setting line must not have control"},
		{shop, "https://x.example/{missing}", "setting missing is missing"},
		{shop, "https://x.example/{empty}", "setting empty is missing"},
		{shop, "https://x.example/{list}", "setting list must be a string"},
		{shop, "https://x.example/{api_key}", "setting api_key is a secret"},
		{shop, "https://x.example/?q={client_secret}", "setting client_secret is a secret"},
		{shop, "https://{api_key}.shop.example/", "setting api_key is a secret"},
		{shop, "https://{long}.shop.example/", "must be one label"},
		{shop, "https://{host}.shop.example/", "must be one label"},
		{shop, "https://{evil}.shop.example/", "must be one label"},
		{shop, "https://{at}.shop.example/", "must be one label"},
		{shop, "{organisation_url}/x", "does not declare it as origin"},
		{shop, "{host}/x", "does not declare it as origin"},
	} {
		target, err := ParseTarget(tt.target, "", "")
		if err != nil {
			t.Errorf("%s: %v", tt.target, err)
			continue
		}
		u, err := tt.def.RenderTarget(target, settings)
		switch {
		case strings.Contains(tt.want, "://"):
			if err != nil || u.String() != tt.want {
				t.Errorf("%s: got %v, %v, want %s", tt.target, u, err, tt.want)
			}
		case err == nil || !strings.Contains(err.Error(), tt.want):
			t.Errorf("%s: got %v, %v, want an error with %q", tt.target, u, err, tt.want)
		case strings.Contains(err.Error(), "secret-value"):
			t.Errorf("%s: the error has the setting in it: %v", tt.target, err)
		}
	}
}

func TestTargetThatCouldLeadElsewhereIsRefused(t *testing.T) {
	t.Parallel()
	for _, target := range []string{
		"", "https://", "https:///", "https://x.example#", "https://x.example/#a", "https://a@x.example/", "https://a:b@x.example", "x.example",
		"/x", "//x.example/", `https://x.example\@evil.example`, `https:\\x.example`, "https://x.example/\r\nHost: evil", "https://x example/",
		"https://x%2eexample/", "ftp://x.example/", "https://{host}", "https://{host}/", "https://x.{host}", "https://{a}.{b}", "https://x.example:{port}/",
		"{a}{b}/", "{a}.example/", "x{a}/", "{/", "{}/x", "https://x.example:0/", "https://x.example:65536/", "https://[::1/", "https://]/",
		"https://x.example/%", "https://x.example/%2{number}", `https://x.example/a\b`, "javascript://x.example/%0a", "https://127.1/", "https://0x7f000001/",
	} {
		parsed, err := ParseTarget(target, "", "")
		if err == nil {
			if _, err = shop.RenderTarget(parsed, map[string]any{"host": "evil.example", "a": "x", "b": "y", "port": "1"}); err == nil {
				t.Errorf("%s is taken", target)
			}
		}
	}
}

func TestTargetIsOneThatAConnectorMayAllow(t *testing.T) {
	t.Parallel()
	plain := &Definition{ID: ID{"crm", "plain"}, AuthType: OAuth2, BaseURL: "https://api.plain.example", AllowHosts: []string{"*.plain.example"}}
	for _, tt := range []struct {
		def    *Definition
		target string
		want   bool
	}{
		{plain, "https://api.plain.example/x", true},
		{plain, "https://www.plain.example", true},
		{plain, "https://plain.example", false},
		{plain, "https://api.plain.example:8443", false},
		{plain, "http://api.plain.example", false},
		{plain, "https://{x}.plain.example", true},
		{shop, "https://acme.shop.example/x", true},
		{shop, "https://login.shop.example/x", true},
		{shop, "https://shop.example.evil.example/x", false},
		{shop, "https://evilshop.example/", false},
		{dynamics, "https://x.crm.dynamics.example/", true},
		{dynamics, "https://x.dynamics.example/", false},
	} {
		target, err := ParseTarget(tt.target, "", "")
		if err != nil {
			t.Fatalf("%s: %v", tt.target, err)
		}
		if got := tt.def.MayAllow(target); got != tt.want {
			t.Errorf("%s, %s: got %v", tt.def.ID, tt.target, got)
		}
	}
}

// FuzzTarget checks that neither a caller nor a connection's settings can lead a target away
// from the host and the place in the path that the connector allows.
func FuzzTarget(f *testing.F) {
	for _, target := range []string{
		"https://{subdomain}.shop.example/v1/{tenant}?q={tenant}", "{organisation_url}/x", "https://x.shop.example/../", `https://a\@b/`,
		"https://x/%2e%2e%2f", "https://[::1]:1/", "https://x.shop.example/{tenant}{tenant}/.{tenant}", "https://é.example/ü?ü",
	} {
		f.Add(target, "/below", "a=b", "acme", "x")
		f.Add(target, "", "", "..", "%2e%2e/\\")
	}
	f.Fuzz(func(t *testing.T, target, path, query, subdomain, tenant string) {
		parsed, err := ParseTarget(target, path, query)
		if err != nil {
			return
		}
		settings := map[string]any{"subdomain": subdomain, "tenant": tenant, "organisation_url": tenant, "api_key": "secret-value-1"}
		for _, def := range []*Definition{shop, dynamics} {
			u, err := def.RenderTarget(parsed, settings)
			if err != nil {
				continue
			}
			if u.User != nil || u.Fragment != "" || u.Opaque != "" || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
				t.Errorf("got %#v", u)
			}
			if again, err := url.Parse(u.String()); err != nil || *again != *u {
				t.Errorf("got %#v, which is read as %#v", u, again)
			}
			line := u.RequestURI()
			if strings.ContainsFunc(line, func(r rune) bool { return r <= ' ' || r >= 0x7f }) || line[0] != '/' {
				t.Errorf("the request line would have %q", line)
			}
			if hasDotSegment(u.EscapedPath()) {
				t.Errorf("the path is %s", u.EscapedPath())
			}
			if strings.Contains(u.String(), "secret-value-1") && !strings.Contains(target+path+query+subdomain+tenant, "secret-value-1") {
				t.Errorf("a secret is in %s", u)
			}
			if def.AllowsHost(u.Scheme, u.Host, settings) == nil && !strings.HasSuffix(u.Hostname(), ".example") {
				t.Errorf("%s is allowed", u)
			}
		}
	})
}
