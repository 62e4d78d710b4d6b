package connector

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

func TestInjections(t *testing.T) {
	t.Parallel()
	settings := map[string]any{"email": "ann@acme.test", "api_token": "s3cret", "tenant": 12, "flag": true}
	for name, test := range map[string]struct {
		inject []Placement
		want   string
	}{
		"access token":  {[]Placement{{Kind: InHeader, Name: "authorization", Format: "Bearer %s"}}, "[{header Authorization Bearer t0ken [t0ken]}]"},
		"plain setting": {[]Placement{{Kind: InHeader, Name: "X-Tenant", Setting: "tenant"}}, "[{header X-Tenant 12 []}]"},
		"boolean":       {[]Placement{{Kind: InHeader, Name: "X-Flag", Setting: "flag"}}, "[{header X-Flag true []}]"},
		"cookie":        {[]Placement{{Kind: InCookie, Name: "a"}}, "[{cookie a t0ken [t0ken]}]"},
		"query":         {[]Placement{{Kind: InQuery, Name: "a b", Setting: "email"}}, "[{query a b ann@acme.test [ann@acme.test]}]"},
		"basic":         {[]Placement{{Kind: InBasic, Setting: "email", PasswordSetting: "api_token"}}, "[{header Authorization Basic YW5uQGFjbWUudGVzdDpzM2NyZXQ= [s3cret YW5uQGFjbWUudGVzdDpzM2NyZXQ=]}]"},
		"secret user":   {[]Placement{{Kind: InBasic, Setting: "api_token"}}, "[{header Authorization Basic czNjcmV0Og== [s3cret czNjcmV0Og==]}]"},
		"text":          {[]Placement{{Kind: InBasic, Username: "{email}/token", Password: "{api_token}"}}, "[{header Authorization Basic YW5uQGFjbWUudGVzdC90b2tlbjpzM2NyZXQ= [s3cret YW5uQGFjbWUudGVzdC90b2tlbjpzM2NyZXQ=]}]"},
		"fixed user":    {[]Placement{{Kind: InBasic, Username: "api", PasswordSetting: "api_token"}}, "[{header Authorization Basic YXBpOnMzY3JldA== [s3cret YXBpOnMzY3JldA==]}]"},
		"in this order": {[]Placement{{Kind: InQuery, Name: "b"}, {Kind: InQuery, Name: "a"}}, "[{query b t0ken [t0ken]} {query a t0ken [t0ken]}]"},
	} {
		d := acme()
		d.Settings = []Setting{{Name: "email"}, {Name: "api_token", Sensitive: true}, {Name: "tenant"}, {Name: "flag"}}
		d.Inject = test.inject
		full := d.WithDefaults()
		for _, d := range []*Definition{&d, &full} { // without and with parsed templates
			got, err := d.Injections(settings, "t0ken")
			if err != nil || fmt.Sprint(got) != test.want {
				t.Errorf("%s: got %v, %v, want %s", name, got, err, test.want)
			}
		}
	}
}

func TestValuesThatCannotBeInjected(t *testing.T) {
	t.Parallel()
	basic := Placement{Kind: InBasic, Setting: "s", PasswordSetting: "p"}
	for name, test := range map[string]struct {
		p       Placement
		s       any
		fault   string
		missing bool
	}{
		"missing":               {Placement{Kind: InHeader, Name: "X", Setting: "s"}, nil, "is missing", true},
		"empty":                 {Placement{Kind: InHeader, Name: "X", Setting: "s"}, "", "is missing", true},
		"object":                {Placement{Kind: InHeader, Name: "X", Setting: "s"}, map[string]any{}, "must be a string", false},
		"CR":                    {Placement{Kind: InHeader, Name: "X", Setting: "s"}, "canary\r", faultControl, false},
		"LF":                    {Placement{Kind: InHeader, Name: "X", Setting: "s"}, "canary\nY: z", faultControl, false},
		"NUL":                   {Placement{Kind: InHeader, Name: "X", Setting: "s"}, "canary\x00", faultControl, false},
		"NUL in a query":        {Placement{Kind: InQuery, Name: "x", Setting: "s"}, "canary\x00", faultControl, false},
		"LF in a user name":     {basic, "canary\n", faultControl, false},
		"colon in a user name":  {basic, "canary:x", "has a colon", false},
		"semicolon in a cookie": {Placement{Kind: InCookie, Name: "x", Setting: "s"}, "canary;y=z", "no cookie can carry", false},
		"space in a cookie":     {Placement{Kind: InCookie, Name: "x", Setting: "s"}, "canary x", "no cookie can carry", false},
		"LF in a cookie":        {Placement{Kind: InCookie, Name: "x", Setting: "s"}, "canary\n", faultControl, false},
	} {
		d := Definition{ID: ID{"crm", "acme"}, AuthType: Custom, BaseURL: "https://acme.test", Inject: []Placement{test.p}}
		_, err := d.Injections(map[string]any{"s": test.s, "p": "x"}, "")
		var fault *SettingError
		if !errors.As(err, &fault) || fault.Setting != "s" || !strings.Contains(fault.Fault, test.fault) || fault.IsMissing() != test.missing {
			t.Errorf("%s: got %v, want a *SettingError: %s", name, err, test.fault)
			continue
		}
		if strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: the error repeats the value: %v", name, err)
		}
		// An import reports it too, unless the setting is merely missing.
		if err := d.CheckSettings(map[string]any{"s": test.s, "p": "x"}); (err == nil) != test.missing {
			t.Errorf("%s: CheckSettings: %v", name, err)
		}
	}
	d := acme()
	if _, err := d.Injections(nil, ""); !errors.Is(err, ErrNoAccessToken) {
		t.Errorf("got %v, want ErrNoAccessToken", err)
	}
	if _, err := d.Injections(nil, "canary\r\nX: y"); err == nil || strings.Contains(err.Error(), "canary") {
		t.Errorf("an access token with a line break: got %v", err)
	}
}

// FuzzPlacements checks that a server reads a request with an injection as the same request
// with exactly that value in it, whatever the placement and the value.
func FuzzPlacements(f *testing.F) {
	for _, s := range []string{"Bearer %s", "%s", "%%s", "%s%s", "%[1]s", "%s\r\nX: y", "Token token=\"%s\"", "{a}/token", "{a}:x", "x", ""} {
		for _, kind := range []string{"header", "query", "cookie", "basic"} {
			f.Add(kind, "X-Key", s, s, "t0ken; a=\"b\"\r\n\x00:ü")
			f.Add(kind, "x", s, "", "t0ken")
		}
	}
	f.Fuzz(func(t *testing.T, kind, name, format, password, value string) {
		p := Placement{Kind: PlacementKind(kind), Name: name, Format: format, Setting: "a"}
		if p.Kind == InBasic {
			p = Placement{Kind: InBasic, Username: format, Password: password}
		}
		d := Definition{ID: ID{"crm", "acme"}, AuthType: Custom, BaseURL: "https://acme.test", Settings: []Setting{{Name: "a", Sensitive: true}}, Inject: []Placement{p}}
		if d.Validate() != nil {
			return
		}
		got, err := d.Injections(map[string]any{"a": value}, "")
		if err != nil {
			if len(value) > 20 && strings.Contains(err.Error(), value) {
				t.Errorf("the error repeats the value: %v", err)
			}
			return
		}
		i := got[0]
		if len(got) != 1 || strings.ContainsAny(i.Name+i.Value, "\r\n\x00") {
			t.Fatalf("got %q", got)
		}
		req, _ := http.NewRequest(http.MethodGet, "http://acme.test/", nil)
		req.Header.Set("User-Agent", "")
		switch i.Kind {
		case InHeader:
			req.Header[i.Name] = []string{i.Value}
		case InCookie:
			req.Header["Cookie"] = []string{i.Name + "=" + i.Value}
		default:
			return // net/url escapes it
		}
		var wire bytes.Buffer
		if err := req.Write(&wire); err != nil {
			t.Fatalf("%q cannot be sent: %v", i, err)
		}
		read, err := http.ReadRequest(bufio.NewReader(&wire))
		if err != nil || len(read.Header) != 1 {
			t.Fatalf("%q arrived as %q, %v", i, read.Header, err)
		}
		switch {
		case p.Kind == InBasic:
			user, pass, ok := read.BasicAuth()
			if want := strings.ReplaceAll(format, "{a}", value); !ok || user != want || pass != strings.ReplaceAll(password, "{a}", value) {
				t.Errorf("%q arrived as %q, %q", i, user, pass)
			}
		case p.Kind == InCookie:
			cookies := read.Cookies()
			if len(cookies) != 1 || cookies[0].Name != name || cookies[0].Value != value {
				t.Errorf("%q arrived as %v", i, cookies)
			}
		default: // spaces around a value are not part of it (RFC 9110 section 5.5)
			if want := strings.Trim(i.Value, " \t"); read.Header.Get(i.Name) != want {
				t.Errorf("%q arrived as %q", i, read.Header)
			}
		}
	})
}
