package connector

import (
	"strings"
	"testing"
	"time"
)

func acme() Definition {
	return Definition{
		ID: ID{UnifiedAPI: "crm", ServiceID: "acme"}, AuthType: OAuth2,
		TokenURL: "https://auth.acme.test/oauth/token", AuthStyle: AuthHeader,
		BaseURL: "https://api.acme.test/v1", AllowHosts: []string{"files.acme.test", "*.acme.test"},
	}
}

func TestValidDefinitions(t *testing.T) {
	t.Parallel()
	tests := map[string]func(*Definition){
		"as it is":            func(*Definition) {},
		"window":              func(d *Definition) { d.Rotation = Rotation{RotationWindow, time.Minute} },
		"client credentials":  func(d *Definition) { d.GrantType = ClientCredentials },
		"plain http, private": func(d *Definition) { d.AllowPrivate, d.TokenURL = true, "http://127.0.0.1:9000/token" },
		"IPv6, private":       func(d *Definition) { d.AllowPrivate, d.BaseURL = true, "http://[::1]:9000/v1" },
		"private names":       func(d *Definition) { d.AllowPrivate, d.AllowHosts = true, []string{"*.test", "10.0.0.1:8080"} },
		"internationalised":   func(d *Definition) { d.AllowHosts = []string{"bücher.example", "*.BÜCHER.example."} },
		"own suffix":          func(d *Definition) { d.AllowHosts = []string{"*.my.salesforce.com", "*.salesforce.com"} },
		"token_url query":     func(d *Definition) { d.TokenURL += "?tenant=1" },
		"setting in host and path": func(d *Definition) {
			d.BaseURL = "https://{shop}.myshopify.com/v/{account}/x"
			d.Settings = []Setting{{Name: "shop", Required: true}, {Name: "account", Required: true}}
		},
		"origin": func(d *Definition) {
			d.BaseURL = "{instance_url}/services"
			d.Settings = []Setting{{Name: "instance_url", Origin: true}}
		},
		"api key": func(d *Definition) {
			*d = Definition{ID: d.ID, AuthType: APIKey, BaseURL: d.BaseURL, Inject: []Placement{{Kind: InHeader, Name: "X-Api-Key"}}}
		},
		"password": func(d *Definition) { d.GrantType = Password },
		"token requests": func(d *Definition) {
			d.GrantType, d.TokenBody = ClientCredentials, BodyJSON
			d.RefreshURL, d.RevocationURL = "https://auth.acme.test/refresh", "https://{tenant}.acme.test/revoke"
			d.TokenParams = map[string]string{"grant_type": "account_credentials", "account": "{tenant}", "api_secret": "{key}"}
			d.Settings = []Setting{{Name: "tenant"}, {Name: "key", Sensitive: true}}
		},
		"own client": func(d *Definition) {
			d.Settings = []Setting{{Name: "client_id"}, {Name: "client_secret", Sensitive: true}}
		},
		"public client": func(d *Definition) { d.Settings = []Setting{{Name: "client_id"}} },
		"cookies and basic": func(d *Definition) {
			d.Settings = []Setting{{Name: "email"}, {Name: "api_token", Sensitive: true}}
			d.Inject = []Placement{
				{Kind: InCookie, Name: "session"},
				{Kind: InCookie, Name: "Session", Setting: "email"},
				{Kind: InBasic, Username: "{email}/token", Password: "{api_token}"},
			}
		},
		"API key for a user name": func(d *Definition) {
			*d = Definition{ID: d.ID, AuthType: APIKey, BaseURL: d.BaseURL, Inject: []Placement{{Kind: InBasic, Setting: "api_key", Password: "x"}}}
		},
		"basic":  func(d *Definition) { *d = Definition{ID: d.ID, AuthType: Basic, BaseURL: d.BaseURL} },
		"none":   func(d *Definition) { *d = Definition{ID: d.ID, AuthType: None, AllowHosts: []string{"acme.test"}} },
		"custom": func(d *Definition) { *d = Definition{ID: d.ID, AuthType: Custom, BaseURL: d.BaseURL} },
	}
	for name, change := range tests {
		d := acme()
		change(&d)
		if err := d.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestValidateNamesTheFieldAndTheFix(t *testing.T) {
	t.Parallel()
	setting := func(s ...Setting) func(*Definition) { return func(d *Definition) { d.Settings = s } }
	inject := func(p ...Placement) func(*Definition) { return func(d *Definition) { d.Inject = p } }
	hosts := func(h string) func(*Definition) { return func(d *Definition) { d.AllowHosts = []string{h} } }
	base := func(u string) func(*Definition) { return func(d *Definition) { d.BaseURL = u } }
	tests := []struct {
		name   string
		change func(*Definition)
		want   string
	}{
		{"no id", func(d *Definition) { d.ID = ID{} }, "<unified_api>/<service_id>"},
		{"no auth type", func(d *Definition) { d.AuthType = "" }, "auth_type: is required"},
		{"other auth type", func(d *Definition) { d.AuthType = "oauth1" }, `auth_type: "oauth1" is not one of`},
		{"no token_url", func(d *Definition) { d.TokenURL = "" }, "token_url: is required"},
		{"plain token_url", func(d *Definition) { d.TokenURL = "http://auth.acme.test/" }, "token_url: must begin with https://, or set allow_private"},
		{"other scheme", func(d *Definition) { d.TokenURL = "ftp://auth.acme.test/" }, "token_url: must begin with https://"},
		{"userinfo", func(d *Definition) { d.TokenURL = "https://a:b@auth.acme.test/" }, "token_url: must not have a user name"},
		{"fragment", func(d *Definition) { d.TokenURL += "#x" }, "token_url: must not have a fragment"},
		{"no auth style", func(d *Definition) { d.AuthStyle = "" }, "auth_style: is required: header or params"},
		{"other auth style", func(d *Definition) { d.AuthStyle = "jwt" }, `auth_style: "jwt"`},
		{"other grant", func(d *Definition) { d.GrantType = "implicit" }, "grant_type:"},
		{"other rotation", func(d *Definition) { d.Rotation.Kind = "maybe" }, "rotation:"},
		{"window of nothing", func(d *Definition) { d.Rotation.Kind = RotationWindow }, "rotation: window needs a duration"},
		{"always with window", func(d *Definition) { d.Rotation = Rotation{RotationAlways, time.Hour} }, "rotation: only window"},
		{"negative rate", func(d *Definition) { d.RefreshRate = -1 }, "refresh_rate: must be between 1/s and 1000/s"},
		{"huge rate", func(d *Definition) { d.RefreshRate = 1001 }, "refresh_rate: must be between 1/s and 1000/s"},
		{"negative concurrency", func(d *Definition) { d.RefreshConcurrency = -1 }, "refresh_concurrency: must be between 1 and 64"},
		{"huge concurrency", func(d *Definition) { d.RefreshConcurrency = 65 }, "refresh_concurrency: must be between 1 and 64"},
		{"rate without oauth2", func(d *Definition) { d.AuthType, d.RefreshRate = None, 50 }, "refresh_rate: is for auth_type oauth2 only"},
		{"concurrency without oauth2", func(d *Definition) { d.AuthType, d.RefreshConcurrency = None, 4 }, "refresh_concurrency: is for auth_type oauth2 only"},
		{"oauth fields without oauth2", func(d *Definition) { d.AuthType = None }, "token_url: is for auth_type oauth2 only"},
		{"no host", func(d *Definition) { d.BaseURL, d.AllowHosts = "", nil }, "base_url: is required unless allow_host"},
		{"IP address", base("https://192.0.2.1/"), "base_url: is on an IP address"},
		{"base query", base("https://api.acme.test/?a=b"), "base_url: must not have a query"},
		{"dot segments", base("https://api.acme.test/a/%2e./b"), "base_url: must not have . or .."},
		{"bad escape", base("https://api.acme.test/a%zz"), "base_url: has a %"},
		{"undeclared", base("https://api.acme.test/{realm}"), "base_url: uses {realm}, which is not declared: add setting realm required"},
		{"not an origin", base("{realm}/v1"), "base_url: begins with"},
		{"setting as user", base("https://{u}@api.acme.test/"), "base_url: must not have a user name"},
		{"setting as port", base("https://api.acme.test:{port}/"), "base_url: must not have a {setting} as its port"},
		{"setting in query", base("https://api.acme.test/?x={q}"), "base_url: must not have a {setting} in the query"},
		{"setting in fragment", base("https://api.acme.test/#{q}"), "base_url: must not have a fragment"},
		{"setting as whole host", base("https://{host}/"), "base_url: must end its host with a literal domain"},
		{"setting below com", base("https://{x}.com/"), "base_url: lets a setting choose"},
		{"setting as scheme", base("{x}://api.acme.test/"), "base_url: must begin with https://"},
		{"open brace", base("https://api.acme.test/{x"), "base_url: has a {"},
		{"bad name", base("https://api.acme.test/{X}"), "base_url: has a {"},
		{"any host", hosts("*"), `allow_host: "*"`},
		{"all of com", hosts("*.com"), "public suffix"},
		{"all of co.uk", hosts("*.co.uk"), "public suffix"},
		{"shared hosting", hosts("*.github.io"), "public suffix"},
		{"single label", hosts("*.test"), "public suffix"},
		{"two wildcards", hosts("*.*.acme.test"), "one wildcard"},
		{"partial wildcard", hosts("a*.acme.test"), "one wildcard"},
		{"wildcard inside", hosts("a.*.test"), "one wildcard"},
		{"URL", hosts("https://acme.test"), "leave out the scheme"},
		{"host with user", hosts("a@acme.test"), "is not a host"},
		{"host with path", hosts("acme.test/x"), "leave out the scheme"},
		{"host with IP", hosts("10.0.0.1"), "IP address"},
		{"IP in disguise", hosts("127.1"), "is not a host"},
		{"port 0", hosts("acme.test:0"), "port"},
		{"port 65536", hosts("acme.test:65536"), "port"},
		{"setting name", setting(Setting{Name: "Realm-ID"}), "setting: \"Realm-ID\" is not a name"},
		{"setting twice", setting(Setting{Name: "a"}, Setting{Name: "a"}), "setting: a is declared twice"},
		{"sensitive origin", setting(Setting{Name: "a", Origin: true, Sensitive: true}), "cannot be both"},
		{"sensitive default", setting(Setting{Name: "a", Default: "x", Sensitive: true}), "setting: a is sensitive, and a secret has no default"},
		{"default elsewhere", func(d *Definition) {
			d.BaseURL, d.AllowHosts, d.Settings = "{site}", []string{"*.acme.test"}, []Setting{{Name: "site", Origin: true, Default: "https://evil.test"}}
		}, "setting: the default of site is on a host that allow_host does not list"},
		{"two verbs", inject(Placement{Kind: InHeader, Name: "X", Format: "%s%s"}), "inject: the format of header X must have one %s"},
		{"no verb", inject(Placement{Kind: InHeader, Name: "X", Format: "Bearer"}), "must have one %s"},
		{"other verb", inject(Placement{Kind: InHeader, Name: "X", Format: "%s %d"}), "must have one %s"},
		{"other verb alone", inject(Placement{Kind: InHeader, Name: "X", Format: "%v"}), "must have one %s"},
		{"line break", inject(Placement{Kind: InHeader, Name: "X", Format: "%s\r\nY: z"}), "control characters"},
		{"no token", inject(Placement{Kind: InHeader, Name: "X Y"}), "inject: header name"},
		{"no name", inject(Placement{Kind: InHeader}), "inject: header name"},
		{"Host", inject(Placement{Kind: InHeader, Name: "host"}), "belongs to the connection"},
		{"framing", inject(Placement{Kind: InHeader, Name: "transfer-encoding"}), "belongs to the connection"},
		{"hop-by-hop", inject(Placement{Kind: InHeader, Name: "TE"}), "belongs to the connection"},
		{"twice", inject(Placement{Kind: InHeader, Name: "x-a"}, Placement{Kind: InHeader, Name: "X-A"}), "inject: writes to header X-A twice"},
		{"basic and Authorization", func(d *Definition) {
			d.Settings = []Setting{{Name: "u"}, {Name: "p"}}
			d.Inject = []Placement{{Kind: InHeader, Name: "Authorization"}, {Kind: InBasic, Setting: "u", PasswordSetting: "p"}}
		}, "inject: writes to header Authorization twice"},
		{"undeclared setting", inject(Placement{Kind: InQuery, Name: "key", Setting: "key"}), "inject: uses the setting key, which is not declared"},
		{"query without name", inject(Placement{Kind: InQuery}), "inject: query needs"},
		{"basic without settings", inject(Placement{Kind: InBasic}), "inject: basic needs a setting"},
		{"refresh_url", func(d *Definition) { d.RefreshURL = "https://{x}.acme.test/" }, "refresh_url: uses {x}, which is not declared"},
		{"revocation_url", func(d *Definition) { d.RevocationURL = "http://acme.test" }, "revocation_url: must begin with https://"},
		{"token body", func(d *Definition) { d.TokenBody = "xml" }, `token_body: "xml" is not form or json`},
		{"parameter of the grant", func(d *Definition) { d.TokenParams = map[string]string{"refresh_token": "{x}"} }, "token_params: refresh_token is set by the grant"},
		{"another grant", func(d *Definition) { d.TokenParams = map[string]string{"grant_type": "x"} }, "token_params: grant_type is set by the grant"},
		{"secret parameter", func(d *Definition) { d.TokenParams = map[string]string{"App-Secret": "s"} }, "token_params: App-Secret is a secret by its name"},
		{"undeclared parameter", func(d *Definition) { d.TokenParams = map[string]string{"a": "{x}"} }, "token_params: a uses {x}, which is not declared"},
		{"parameter's braces", func(d *Definition) { d.TokenParams = map[string]string{"a": "{X}"} }, "token_params: a has a {"},
		{"parameter's line break", func(d *Definition) { d.TokenParams = map[string]string{"a": "b\n"} }, "token_params:"},
		{"client secret alone", setting(Setting{Name: "client_secret", Sensitive: true}), "setting: client_secret needs the setting client_id"},
		{"open client secret", setting(Setting{Name: "client_id"}, Setting{Name: "client_secret"}), "setting: client_secret must be sensitive"},
		{"open password", func(d *Definition) { d.GrantType, d.Settings = Password, []Setting{{Name: "password"}} }, "setting: password must be required with grant_type password"},
		{"cookie without name", inject(Placement{Kind: InCookie}), "inject: cookie name"},
		{"cookie with an equals sign", inject(Placement{Kind: InCookie, Name: "a=b"}), "inject: cookie name"},
		{"cookie twice", inject(Placement{Kind: InCookie, Name: "a"}, Placement{Kind: InCookie, Name: "a"}), "inject: writes to cookie a twice"},
		{"Cookie header and a cookie", inject(Placement{Kind: InHeader, Name: "cookie"}, Placement{Kind: InCookie, Name: "a"}), "inject: header Cookie is written by inject cookie: use that"},
		{"cookie with a format", inject(Placement{Kind: InCookie, Name: "a", Format: "%s"}), "inject: cookie takes no format"},
		{"header with a password", inject(Placement{Kind: InHeader, Name: "X", Password: "x"}), "inject: only basic has"},
		{"basic with both", inject(Placement{Kind: InBasic, Setting: "u", Username: "x"}), "inject: basic takes a setting or a text"},
		{"basic of literals", inject(Placement{Kind: InBasic, Username: "u", Password: "p"}), "inject: basic needs a setting"},
		{"user name with a colon", inject(Placement{Kind: InBasic, Username: "a:{u}"}), "must not have a colon"},
		{"text of basic", inject(Placement{Kind: InBasic, Username: "{u"}), "the user name of basic has a {"},
		{"line break in basic", inject(Placement{Kind: InBasic, Username: "{u}", Password: "a\r"}), "the password of basic must not have control characters"},
		{"undeclared in basic", inject(Placement{Kind: InBasic, Username: "{u}"}), "inject: uses the setting u, which is not declared"},
		{"other kind", inject(Placement{Kind: "body"}), `inject: "body" is not header, query, basic or cookie`},
		{"no access token", func(d *Definition) {
			*d = Definition{ID: d.ID, AuthType: Custom, BaseURL: d.BaseURL, Inject: []Placement{{Kind: InHeader, Name: "X"}}}
		}, "inject: header X needs a setting"},
		{"api_key open", func(d *Definition) {
			*d = Definition{ID: d.ID, AuthType: APIKey, BaseURL: d.BaseURL, Settings: []Setting{{Name: "api_key", Required: true}}}
		}, "setting: api_key must be sensitive"},
		{"password optional", func(d *Definition) {
			*d = Definition{ID: d.ID, AuthType: Basic, BaseURL: d.BaseURL, Settings: []Setting{{Name: "password", Sensitive: true}}}
		}, "setting: password must be required"},
		{"token method", func(d *Definition) { d.TokenMethod = "PUT" }, `token_method: "PUT" is not POST or GET`},
		{"GET of JSON", func(d *Definition) { d.TokenMethod, d.TokenBody = MethodGet, BodyJSON }, "token_method: GET has no body"},
		{"token header of the client", func(d *Definition) { d.TokenHeaders = map[string]string{"authorization": "x"} }, "token_header: Authorization is set by the token request"},
		{"token header of the body", func(d *Definition) { d.TokenHeaders = map[string]string{"content-type": "x"} }, "token_header: Content-Type is set by the token request"},
		{"Host of token requests", func(d *Definition) { d.TokenHeaders = map[string]string{"host": "x"} }, "token_header: Host belongs to the connection"},
		{"secret token header", func(d *Definition) { d.TokenHeaders = map[string]string{"X-Client-Secret": "s"} }, "token_header: X-Client-Secret is a secret by its name"},
		{"undeclared token header", func(d *Definition) { d.TokenHeaders = map[string]string{"X": "{x}"} }, "token_header: X uses {x}, which is not declared"},
		{"empty token header", func(d *Definition) { d.TokenHeaders = map[string]string{"X": ""} }, "token_header: X needs a value"},
		{"header's line break", func(d *Definition) { d.Headers = map[string]string{"X": "a\nb"} }, "header: X needs a value without control"},
		{"header's name", func(d *Definition) { d.Headers = map[string]string{"X Y": "a"} }, `header: "X Y" is not a header's name`},
		{"header twice", func(d *Definition) { d.Headers = map[string]string{"X-A": "a", "x-a": "b"} }, "header: X-A is set twice"},
		{"header for the token", func(d *Definition) { d.Headers = map[string]string{"authorization": "a"} }, "header: Authorization is for credentials: use inject"},
		{"header of a placement", func(d *Definition) {
			d.Inject, d.Headers = []Placement{{Kind: InHeader, Name: "X-Token"}}, map[string]string{"x-token": "a"}
		}, "header: X-Token is for credentials"},
		{"secret header", func(d *Definition) { d.Headers = map[string]string{"X-Api-Key": "a"} }, "header: X-Api-Key is a secret by its name"},
		{"answer member", func(d *Definition) { d.Answer = map[string]string{"token": "a"} }, `answer: "token" is not one of access_token`},
		{"answer path", func(d *Definition) { d.Answer = map[string]string{"access_token": "a..b"} }, `answer: access_token: "a..b" is not a dotted path`},
		{"answer unit", func(d *Definition) { d.Answer = map[string]string{"expires_in": "a unix"} }, `answer: expires_in: "unix" is not one of the units s ms`},
		{"unit of a token", func(d *Definition) { d.Answer = map[string]string{"access_token": "a s"} }, "answer: access_token takes no unit"},
		{"capture path", func(d *Definition) {
			d.Settings, d.Capture = []Setting{{Name: "a"}}, map[string]string{"a": "b."}
		}, `capture: a: "b." is not a dotted path`},
		{"capture undeclared", func(d *Definition) { d.Capture = map[string]string{"a": "b"} }, "capture: the setting a is not declared"},
		{"capture a secret", func(d *Definition) {
			d.Settings, d.Capture = []Setting{{Name: "a", Sensitive: true}}, map[string]string{"a": "b"}
		}, "capture: the setting a is sensitive"},
		{"capture the token endpoint", func(d *Definition) {
			d.TokenURL, d.Settings, d.Capture = "https://{a}.acme.test/", []Setting{{Name: "a"}}, map[string]string{"a": "b"}
		}, "capture: token requests depend on the setting a"},
		{"expired status", func(d *Definition) { d.ExpiredStatuses = []int{200} }, "expired_status: 200 is not a status of an error"},
		{"expired body's status", func(d *Definition) { d.ExpiredBodies = []ExpiredBody{{Status: 20, Text: "x"}} }, "expired_body: 20 is not a status"},
		{"expired body's text", func(d *Definition) { d.ExpiredBodies = []ExpiredBody{{Status: 200}} }, "expired_body: 200 needs a text"},
		{"probe without a slash", func(d *Definition) { d.ProbePath = "me" }, `probe_path: "me" does not begin with one slash`},
		{"probe elsewhere", func(d *Definition) { d.ProbePath = "//evil.test/me" }, "does not begin with one slash"},
		{"probe above the base", func(d *Definition) { d.ProbePath = "/../me" }, `probe_path: "/../me" must not have`},
		{"probe with a fragment", func(d *Definition) { d.ProbePath = "/me#x" }, "has a fragment"},
		{"probe with a space", func(d *Definition) { d.ProbePath = "/m e" }, "must be percent-encoded"},
		{"probe with an unknown setting", func(d *Definition) { d.ProbePath = "/{nobody}/me?a={other}" }, "probe_path: nobody is not a setting of this connector"},
		{"probe without a base", func(d *Definition) { d.BaseURL, d.AllowHosts, d.ProbePath = "", []string{"acme.test"}, "/me" }, "probe_path: needs a base_url"},
		{"source", func(d *Definition) { d.Source = "docs" }, "source: must be an https URL"},
	}
	for _, tt := range tests {
		d := acme()
		tt.change(&d)
		err := d.Validate()
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
}

func TestDefaultsByAuthType(t *testing.T) {
	t.Parallel()
	base := "https://api.acme.test"
	tests := []struct {
		d            Definition
		wantInject   []Placement
		wantSettings []string
	}{
		{Definition{AuthType: OAuth2}, []Placement{{Kind: InHeader, Name: "Authorization", Format: "Bearer %s"}}, nil},
		{Definition{AuthType: APIKey}, []Placement{{Kind: InHeader, Name: "Authorization", Format: "Bearer %s", Setting: "api_key"}}, []string{"api_key"}},
		{Definition{AuthType: Basic}, []Placement{{Kind: InBasic, Setting: "username", PasswordSetting: "password"}}, []string{"username", "password"}},
		{Definition{AuthType: None}, nil, nil},
		{Definition{AuthType: Custom}, nil, nil},
		{Definition{AuthType: APIKey, Inject: []Placement{{Kind: InQuery, Name: "key"}}}, []Placement{{Kind: InQuery, Name: "key", Setting: "api_key"}}, []string{"api_key"}},
		{
			Definition{AuthType: APIKey, Settings: []Setting{{Name: "key", Required: true, Sensitive: true}}, Inject: []Placement{{Kind: InHeader, Name: "X-Key", Setting: "key"}}},
			[]Placement{{Kind: InHeader, Name: "X-Key", Setting: "key"}},
			[]string{"key"},
		},
	}
	for _, tt := range tests {
		tt.d.ID, tt.d.BaseURL = ID{"crm", "acme_crm"}, base
		got := tt.d.WithDefaults()
		if len(got.Inject) != len(tt.wantInject) || len(got.Inject) > 0 && got.Inject[0] != tt.wantInject[0] {
			t.Errorf("%s: inject %v, want %v", tt.d.AuthType, got.Inject, tt.wantInject)
		}
		var names []string
		for _, s := range got.Settings {
			names = append(names, s.Name)
			if !s.Required || s.Label == "" || s.Sensitive != (s.Name != "username") {
				t.Errorf("%s: setting %+v", tt.d.AuthType, s)
			}
		}
		if strings.Join(names, " ") != strings.Join(tt.wantSettings, " ") {
			t.Errorf("%s: settings %v, want %v", tt.d.AuthType, names, tt.wantSettings)
		}
		if got.Name != "Acme crm" {
			t.Errorf("name %q", got.Name)
		}
		if twice := got.WithDefaults(); len(twice.Settings) != len(got.Settings) || len(twice.Inject) != len(got.Inject) {
			t.Errorf("%s: defaults of defaults differ", tt.d.AuthType)
		}
	}
	d := acme()
	if got := d.WithDefaults(); got.GrantType != AuthorizationCode || got.Rotation.Kind != RotationAlways {
		t.Errorf("oauth2: grant %q, rotation %q", got.GrantType, got.Rotation.Kind)
	}
}

func TestABlockReplacesWhatItSays(t *testing.T) {
	t.Parallel()
	xero := Catalog()[ID{"accounting", "xero"}]
	got := Override(xero, Definition{Name: "Books", Rotation: Rotation{Kind: RotationAlways}, AllowHosts: []string{"x.test"}, AllowPrivate: true})
	if got.Name != "Books" || got.Rotation != (Rotation{Kind: RotationAlways}) || !got.AllowPrivate || got.AllowHosts[0] != "x.test" {
		t.Errorf("what the block says is not there: %+v", got)
	}
	if got.TokenURL != xero.TokenURL || got.ID != xero.ID || len(got.Inject) != 2 || len(got.Settings) != 1 {
		t.Errorf("what the block does not say is gone: %+v", got)
	}
	if same := Override(xero, Definition{ID: xero.ID}); same.TokenURL != xero.TokenURL || same.RefreshTokenOptional != xero.RefreshTokenOptional {
		t.Errorf("an empty block changed the entry: %+v", same)
	}
	got = Override(xero, Definition{Inject: []Placement{{Kind: InQuery, Name: "t"}}})
	if len(got.Inject) != 1 {
		t.Errorf("lists are merged: %v", got.Inject)
	}
	got.Inject[0].Name = "changed"
	if again := Catalog()[xero.ID]; again.Inject[0].Name == "changed" {
		t.Error("the catalogue was changed")
	}
}

func FuzzParseID(f *testing.F) {
	for _, s := range []string{"crm/hubspot", "crm", "crm/", "/x", "a/b/c", "CRM/x", "crm/hub spot", "../x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := ParseID(s)
		if err != nil {
			return
		}
		if id.String() != s {
			t.Errorf("%q became %q", s, id)
		}
		if strings.ContainsAny(id.UnifiedAPI+id.ServiceID, "/.+% \x00") {
			t.Errorf("%q is valid", s)
		}
	})
}
