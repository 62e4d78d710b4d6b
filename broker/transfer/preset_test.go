package transfer

import (
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
)

// hubspot is the connector of the tests' rows.
var hubspot = map[string]connector.ID{"hubspot": {UnifiedAPI: "crm", ServiceID: "hubspot"}}

// convert returns what a file becomes: a canonical row for each row, or "skipped: ..." or
// "refused: ...".
func convert(t *testing.T, o Options, file string) []string {
	t.Helper()
	c, err := NewConverter(o)
	if err != nil {
		t.Fatal(err)
	}
	source, err := NewSource(strings.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	if header := source.Header(); header != nil {
		if err := c.CheckHeader(header); err != nil {
			return []string{"header: " + err.Error()}
		}
	}
	var got []string
	for {
		rec, err := source.Read()
		if errors.Is(err, io.EOF) {
			return got
		}
		var res *Result
		if err == nil {
			res, err = c.Convert(rec)
		}
		if p, ok := errors.AsType[*RowError](err); ok {
			got = append(got, "refused: "+p.Text)
			continue
		}
		if err != nil {
			return append(got, "fatal: "+err.Error())
		}
		if res.Skipped != "" {
			got = append(got, "skipped: "+res.Skipped)
			continue
		}
		line, err := res.Row.AppendJSON(nil)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, string(line))
	}
}

const janeHubspot = `{"consumer_id":"jane","unified_api":"crm","service_id":"hubspot"`

func tokens(expiry string) string {
	return janeHubspot + `,"credentials":{"access_token":"at-1","refresh_token":"rt-1"` + expiry + `}}`
}

const at = `"expires_at":"2026-01-02T15:04:05Z"`

func TestEachPresetReadsItsTable(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		file string
		want []string
	}{
		"authjs": {
			"id,userId,type,provider,providerAccountId,refresh_token,access_token,expires_at,id_token\n" +
				"1,jane,oauth,hubspot,77,rt-1,at-1,1767366245,x\n" +
				"2,joe,credentials,credentials,joe,,,,\n",
			[]string{tokens("," + at), "skipped: a password, not a connection"},
		},
		"authjs as JSON, in lower case": {
			`{"userid":"jane","provider":"hubspot","refresh_token":"rt-1","access_token":"at-1","expires_at":1767366245}`,
			[]string{tokens("," + at)},
		},
		"better-auth": {
			"id,account_id,provider_id,user_id,access_token,refresh_token,access_token_expires_at,refresh_token_expires_at,password\n" +
				"1,77,hubspot,jane,at-1,rt-1,2026-01-02 15:04:05,2026-03-02 15:04:05,\n" +
				"2,joe,credential,joe,,,,,$argon2id$\n",
			[]string{tokens("," + at), "skipped: a password, not a connection"},
		},
		"allauth": {
			"user_id,provider,client_id,token,token_secret,expires_at\njane,hubspot,client-1,at-1,rt-1,2026-01-02 15:04:05+00\n",
			[]string{tokens("," + at)},
		},
		"social-auth": {
			`{"user_id":"jane","provider":"hubspot","uid":"77","extra_data":{"access_token":"at-1","refresh_token":"rt-1","expires":3600,"auth_time":1767362645}}` + "\n" +
				`{"user_id":"jane","provider":"hubspot","extra_data":"{\"access_token\":\"at-1\",\"refresh_token\":\"rt-1\",\"expires\":1767366245,\"auth_time\":1767362645}"}` + "\n" +
				`{"user_id":"jane","provider":"hubspot","extra_data":{"access_token":{"oauth_token":"a","oauth_token_secret":"SECRET"}}}`,
			[]string{
				tokens(`,"issued_at":"2026-01-02T14:04:05Z","expires_in":3600`),
				tokens(`,"issued_at":"2026-01-02T14:04:05Z",` + at),
				"refused: extra_data.access_token is an object, as with OAuth 1: only OAuth 2 can be imported",
			},
		},
		"omniauth": {
			"provider,uid,oauth_token,refresh_token,oauth_expires_at,user_id\nhubspot,77,at-1,rt-1,2026-01-02 15:04:05 UTC,jane\n",
			[]string{tokens("," + at)},
		},
		"socialite": {
			"user_id;provider;provider_id;token;refresh_token;expires_in\njane;hubspot;77;at-1;rt-1;3600\n",
			[]string{tokens(`,"expires_in":3600`)},
		},
		"spring": {
			"client_registration_id\tprincipal_name\taccess_token_type\taccess_token_value\taccess_token_issued_at\taccess_token_expires_at\trefresh_token_value\n" +
				"hubspot\tjane\tBearer\t" + `\x61742d31` + "\t2026-01-02 14:04:05\t2026-01-02 15:04:05\t72742d31\n",
			[]string{tokens(`,"issued_at":"2026-01-02T14:04:05Z",` + at)},
		},
		"pipedream": {
			`{"id":"apn_1","external_id":"jane","app":{"name_slug":"hubspot"},"expires_at":"2026-01-02T15:04:05.000Z","credentials":{"oauth_client_id":"client-1","oauth_access_token":"at-1","oauth_refresh_token":"rt-1"}}`,
			[]string{tokens("," + at)},
		},
		"oauth2-token": {
			`{"consumer_id":"jane","provider":"hubspot","access_token":"at-1","token_type":"Bearer","refresh_token":"rt-1","expiry":"2026-01-02T16:04:05+01:00"}` + "\n" +
				`{"consumer_id":"jane","provider":"hubspot","access_token":"at-1","refresh_token":"rt-1","expiry":"0001-01-01T00:00:00Z"}` + "\n" +
				`{"consumer_id":"jane","provider":"hubspot","accessToken":"at-1","refreshToken":"rt-1","expiresAt":1767366245000}` + "\n" +
				`{"consumer_id":"jane","provider":"hubspot","access_token":"at-1","refresh_token":"rt-1","expires_at":1767366245.25,"expires_in":3600}`,
			[]string{tokens("," + at), tokens(""), tokens("," + at), tokens(`,"expires_at":"2026-01-02T15:04:05.25Z","expires_in":3600`)},
		},
		"google": {
			`{"consumer_id":"jane","provider":"hubspot","access_token":"at-1","refresh_token":"rt-1","scope":"a b","token_type":"Bearer","expiry_date":1767366245000}` + "\n" +
				`{"consumer_id":"jane","provider":"hubspot","type":"authorized_user","client_id":"client-1","client_secret":"s","refresh_token":"rt-1"}`,
			[]string{tokens("," + at), janeHubspot + `,"credentials":{"refresh_token":"rt-1"}}`},
		},
		"nango-api": {
			`{"id":1,"connection_id":"jane","provider_config_key":"hubspot","provider":"hubspot","credentials":{"type":"OAUTH2","access_token":"at-1","refresh_token":"rt-1","expires_at":"2026-01-02T15:04:05.000Z","raw":{"x":1}},"connection_config":{},"metadata":{"plan":"pro"}}` + "\n" +
				`{"connection_id":"jane","provider_config_key":"hubspot","credentials":{"type":"API_KEY","apiKey":"key-1"},"connection_config":{"subdomain":"acme"}}` + "\n" +
				`{"connection_id":"jane","provider_config_key":"hubspot","credentials":{"type":"BASIC","username":"u","password":"p"}}` + "\n" +
				`{"connection_id":"jane","provider_config_key":"hubspot","credentials":{"type":"TBA","token_id":"SECRET"}}` + "\n" +
				`{"connection_id":"jane","provider_config_key":"hubspot","credentials":{"type":"OAUTH2","access_token":"at-1","config_override":{"client_id":"own","client_secret":"s"}}}`,
			[]string{
				strings.TrimSuffix(tokens(","+at), "}") + `,"metadata":{"plan":"pro"}}`,
				janeHubspot + `,"settings":{"api_key":"key-1","subdomain":"acme"}}`,
				janeHubspot + `,"settings":{"password":"p","username":"u"}}`,
				`refused: credentials.type "TBA" cannot be imported: OAUTH2, API_KEY and BASIC can`,
				janeHubspot + `,"credentials":{"access_token":"at-1"},"settings":{"client_id":"own","client_secret":"s"}}`,
			},
		},
		"canonical": {
			"app,consumer_id,unified_api,service_id,credentials.access_token,credentials.refresh_token,credentials.expires_at,settings.tenant,metadata.plan\n" +
				`,jane,crm,hubspot,at-1,rt-1,2026-01-02T15:04:05Z,"a, ""b""",` + "\n",
			[]string{strings.TrimSuffix(tokens(","+at), "}") + `,"settings":{"tenant":"a, \"b\""}}`},
		},
	} {
		format, _, _ := strings.Cut(name, " ")
		got := convert(t, Options{Format: format, Connectors: hubspot}, test.file)
		if strings.Join(got, "\n") != strings.Join(test.want, "\n") {
			t.Errorf("%s: got\n%s\nwant\n%s", name, strings.Join(got, "\n"), strings.Join(test.want, "\n"))
		}
	}
}

func TestOptionsDescribeATableOfOnesOwn(t *testing.T) {
	t.Parallel()
	got := convert(t, Options{
		Map: map[string]string{
			"tok": fieldAccessToken, "ref": fieldRefreshToken, "until": fieldExpiresAt, "svc": fieldConnector, "note": fieldIgnore,
			"region": "settings.region",
		},
		Connectors: hubspot, Consumer: "org-{org}:{user.id}", Zone: time.FixedZone("", 3600),
	}, "org,user,svc,tok,ref,until,note,region\n7,\"{\"\"id\"\":42}\",hubspot,at-1,rt-1,2026-01-02 16:04:05,x,eu\n,,hubspot,a,r,,,\n")
	want := []string{
		strings.Replace(strings.TrimSuffix(tokens(","+at), "}"), "jane", "org-7:42", 1) + `,"settings":{"region":"eu"}}`,
		"refused: org is empty: it names the consumer; name another column with --consumer",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestAMappedColumnIsNoLongerThePresets(t *testing.T) {
	t.Parallel()
	got := convert(t, Options{Format: "socialite", Connectors: hubspot, Map: map[string]string{"token": "settings.api_key"}},
		"user_id,provider,token\njane,hubspot,key-1\n")
	if want := janeHubspot + `,"settings":{"api_key":"key-1"}}`; len(got) != 1 || got[0] != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

func TestConvertNamesWhatIsMissing(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		options    Options
		file, want string
	}{
		{Options{Format: "authjs"}, `{"userId":"jane","provider":"hubspot","access_token":"SECRET"}`, `refused: provider "hubspot" has no connector: add --connector hubspot=<unified_api>/<service_id>`},
		{Options{Format: "google"}, `{"consumer_id":"jane","access_token":"SECRET"}`, "refused: nothing names the connector"},
		{Options{Format: "authjs", Connectors: hubspot}, `{"provider":"hubspot","access_token":"SECRET"}`, "refused: userId is empty"},
		{Options{Format: "authjs", Connectors: hubspot}, `{"userId":"jane","provider":"hubspot","access_token":{"a":"SECRET"}}`, "refused: access_token is an object or a list"},
		{Options{Format: "authjs", Connectors: hubspot}, `{"userId":"jane","provider":"hubspot","access_token":"a","expires_at":"SECRET"}`, "refused: expires_at is neither a number nor a date"},
		{Options{Format: "authjs", Connectors: hubspot}, `{"userId":"jane","provider":"hubspot","access_token":"a","expires_at":-5}`, "refused: expires_at is out of range"},
		{Options{Format: "authjs", Connectors: hubspot}, `{"userId":"jane"`, "refused: line 1: is not valid JSON"},
		{Options{Format: "authjs"}, "userId,provider\njane,x\n", "header: the file has none of the columns of format authjs: access_token, refresh_token"},
		{Options{Format: "authjs"}, "user,access_token\njane,x\n", `header: the file has no column "userId"`},
		{Options{}, "consumer_id,access_token\njane,x\n", `header: the column "access_token" is unknown: add --map access_token=credentials.access_token, --map access_token=-`},
		{Options{}, "consumer_id,token\njane,x\n", `header: the column "token" is unknown: add --map token=<field>, --map token=- to ignore it, or --consumer '{token}' if it names the consumer`},
		{Options{}, "consumer_id,unified_api,service_id\njane,crm\n", "refused: line 2: has 2 columns, and the header 3"},
		{Options{}, "consumer_id,unified_api,service_id\njane,crm,\"x\n", "refused: line 2: is not valid CSV"},
		{Options{Connectors: hubspot}, `{"consumer_id":"jane","unified_api":"crm","service_id":"hubspot","tokens":1}`, `refused: the column "tokens" is unknown`},
	} {
		got := convert(t, test.options, test.file)
		if len(got) != 1 || !strings.HasPrefix(got[0], test.want) || strings.Contains(got[0], "SECRET") {
			t.Errorf("%s: got %q, want %q", test.file, got, test.want)
		}
	}
}
