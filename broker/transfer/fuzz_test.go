package transfer

import (
	"encoding/base64"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// seeds are files of each format, for the fuzz targets.
var seeds = map[string]string{
	"canonical":    "consumer_id,unified_api,service_id,credentials.access_token,credentials.expires_at,settings.x\nj,crm,x,a,1767366245,s\n",
	"nango-db":     nangoHeader + `h,j,"{""encrypted_credentials"":""AAAA""}",AAAA,AAAA,,` + "\n",
	"nango-api":    `{"connection_id":"j","provider_config_key":"h","credentials":{"type":"OAUTH2","access_token":"a","expires_at":"2026-01-02T15:04:05Z"}}`,
	"authjs":       "userId,provider,access_token,expires_at\nj,h,a,1767366245\n",
	"better-auth":  "userId,providerId,accessToken,accessTokenExpiresAt,refreshTokenExpiresAt\nj,h,a,2026-01-02,2026-01-02\n",
	"allauth":      "user_id,provider,token,token_secret,expires_at\nj,h,a,r,2026-01-02 15:04:05+00\n",
	"social-auth":  `{"user_id":1,"provider":"h","extra_data":"{\"access_token\":\"a\",\"expires\":60,\"auth_time\":1767362645}"}`,
	"omniauth":     "user_id,provider,oauth_token,oauth_expires_at\nj,h,a,2026-01-02 15:04:05 UTC\n",
	"socialite":    "user_id;provider;token;expires_in\nj;h;a;60\n",
	"spring":       "principal_name\tclient_registration_id\taccess_token_value\nj\th\t\\x6161\n",
	"pipedream":    `{"external_id":"j","app":{"name_slug":"h"},"credentials":{"oauth_access_token":"a"}}`,
	"oauth2-token": `{"consumer_id":"j","access_token":"a","expiry":"0001-01-01T00:00:00Z"}`,
	"google":       `{"consumer_id":"j","refresh_token":"a","expiry_date":1767366245000}`,
}

// fuzzFormat checks that any file ends in rows and problems: what becomes a row is one that
// the canonical reader accepts, and what is refused can be fed back.
func fuzzFormat(f *testing.F, format string) {
	f.Add(seeds[format])
	f.Fuzz(func(t *testing.T, file string) {
		c, err := NewConverter(Options{
			Format: format, Connectors: map[string]connector.ID{AnyConnector: {UnifiedAPI: "crm", ServiceID: "x"}},
			EncryptionKey: secret.New(base64.StdEncoding.EncodeToString(make([]byte, 32))),
		})
		if err != nil {
			t.Fatal(err)
		}
		source, err := NewSource(strings.NewReader(file))
		if err != nil {
			return
		}
		for {
			rec, err := source.Read()
			if rec == nil {
				if err == nil || errors.Is(err, io.ErrUnexpectedEOF) {
					t.Fatalf("got neither a row nor a reason: %v", err)
				}
				return
			}
			line := string(rec.AppendRefused(nil, errors.New("reason")))
			if _, err := NewSource(strings.NewReader(line)); err != nil {
				t.Fatalf("%q cannot be fed back: %v", line, err)
			}
			if err != nil {
				continue
			}
			res, err := c.Convert(rec)
			if err != nil || res.Row == nil {
				continue
			}
			(&Check{}).Doubts(res)
			if _, err := res.Row.AppendJSON(nil); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func FuzzCanonical(f *testing.F)   { fuzzFormat(f, "canonical") }
func FuzzNangoDB(f *testing.F)     { fuzzFormat(f, "nango-db") }
func FuzzNangoAPI(f *testing.F)    { fuzzFormat(f, "nango-api") }
func FuzzAuthJS(f *testing.F)      { fuzzFormat(f, "authjs") }
func FuzzBetterAuth(f *testing.F)  { fuzzFormat(f, "better-auth") }
func FuzzAllauth(f *testing.F)     { fuzzFormat(f, "allauth") }
func FuzzSocialAuth(f *testing.F)  { fuzzFormat(f, "social-auth") }
func FuzzOmniAuth(f *testing.F)    { fuzzFormat(f, "omniauth") }
func FuzzSocialite(f *testing.F)   { fuzzFormat(f, "socialite") }
func FuzzSpring(f *testing.F)      { fuzzFormat(f, "spring") }
func FuzzPipedream(f *testing.F)   { fuzzFormat(f, "pipedream") }
func FuzzOAuth2Token(f *testing.F) { fuzzFormat(f, "oauth2-token") }
func FuzzGoogle(f *testing.F)      { fuzzFormat(f, "google") }

func TestEveryFormatHasAFuzzTarget(t *testing.T) {
	t.Parallel()
	for _, format := range Formats() {
		if seeds[format.Name] == "" {
			t.Errorf("%s has no seed", format.Name)
		}
		if _, err := NewConverter(Options{Format: format.Name}); err != nil {
			t.Errorf("%s: %v", format.Name, err)
		}
	}
}

func TestFlagsAreParsed(t *testing.T) {
	t.Parallel()
	if column, field, err := ParseMapping("a=b=settings.x"); err != nil || column != "a=b" || field != "settings.x" {
		t.Errorf("got %q, %q, %v", column, field, err)
	}
	for _, bad := range []string{"a", "=app", "a=", "a=tokens", "a=settings."} {
		if _, _, err := ParseMapping(bad); err == nil {
			t.Errorf("the mapping %q is accepted", bad)
		}
	}
	for text, want := range map[string]string{"h=crm/x": "h", "crm/x": AnyConnector, "a=b=crm/x": "a=b"} {
		if value, id, err := ParseConnector(text); err != nil || value != want || id.String() != "crm/x" {
			t.Errorf("%s: got %q, %v, %v", text, value, id, err)
		}
	}
	for _, bad := range []string{"", "h=", "h=crm", "=crm/x", "h=CRM/x"} {
		if _, _, err := ParseConnector(bad); err == nil {
			t.Errorf("the connector %q is accepted", bad)
		}
	}
	for _, bad := range []string{"x", "{", "{}", "a{b"} {
		if _, err := NewConverter(Options{Consumer: bad}); err == nil {
			t.Errorf("the template %q is accepted", bad)
		}
	}
	if _, err := NewConverter(Options{Format: "nango"}); err == nil || !strings.Contains(err.Error(), "nango-db") {
		t.Errorf("got %v, want the names of the formats", err)
	}
}
