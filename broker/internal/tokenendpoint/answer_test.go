package tokenendpoint

import (
	"bytes"
	"compress/flate"
	"compress/zlib"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// now is when the requests of these tests are sent.
var now = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// answer returns what the body of a 200 means.
func answer(t *testing.T, req Request, header http.Header, body string) record.Answer {
	t.Helper()
	req.URL, req.SentAt = "https://acme.test/token", now
	if req.Params == nil {
		req.Params = url.Values{"refresh_token": {"sent"}}
	}
	return Send(t.Context(), transport(func(r *http.Request) (*http.Response, error) {
		if r.Body != nil {
			_, _ = io.Copy(io.Discard, r.Body)
		}
		if header == nil {
			header = http.Header{"Content-Type": {"application/json"}}
		}
		return &http.Response{StatusCode: http.StatusOK, Header: header, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
	}), req)
}

func TestLifetimesAreReadInEverySpelling(t *testing.T) {
	t.Parallel()
	unix := now.Add(time.Hour).Unix()
	for members, want := range map[string]time.Duration{
		`"expires_in":3600`:       time.Hour,
		`"expires_in":3600.0`:     time.Hour,
		`"expires_in":5.5`:        5500 * time.Millisecond,
		`"expires_in":3.6e3`:      time.Hour,
		`"expires_in":"3600"`:     time.Hour,
		`"expires_in":" 3600 "`:   time.Hour,
		`"expires_in":"3600.0"`:   time.Hour,
		`"expiresIn":3600`:        time.Hour,
		`"expires_in":4294967296`: (1<<31 - 1) * time.Second,
		`"expires_in":1e400`:      (1<<31 - 1) * time.Second,
		`"expires_in":"soon"`:     0,
		`"expires_in":"NaN"`:      0,
		`"expires_in":null`:       0,
		`"expires_in":0`:          0,
		`"expires_in":-5`:         0,
		`"expires_in":[]`:         0,
		`"refresh_token":0,"token_type":1,"expires_in":60`: time.Minute,
		`"expires_in_sec":3600,"expires_in":3600000`:       time.Hour, // Zoho
		`"expires_in_ms":3600000`:                          time.Hour,
		`"expires_at":"2026-05-01T13:00:00Z"`:              time.Hour, // Square
		`"expires_at":"2026-05-01T15:00:00.5+02:00"`:       time.Hour + 500*time.Millisecond,
		`"expires_at":"2026-05-01T13:00:00+0000"`:          time.Hour,
		`"expires_at":"2026-05-01 13:00:00"`:               time.Hour,
		`"expires_at":"Fri, 01 May 2026 13:00:00 GMT"`:     time.Hour,
		`"expires_at":"2026-05-01T11:00:00Z"`:              0,
		fmt.Sprintf(`"expires_at":%d`, unix):               time.Hour,
		fmt.Sprintf(`"expires_at":%d`, unix*1000):          time.Hour,
		fmt.Sprintf(`"expires_on":"%d"`, unix):             time.Hour, // Entra ID, version 1
		fmt.Sprintf(`"access_token_expiration":%d`, unix):  time.Hour, // Clover
		fmt.Sprintf(`"expiry_date":%d`, unix*1000):         time.Hour,
		`"expires_at":"2026-05-01 13:00:00 UTC"`:           time.Hour,                        // Ruby
		`"expires_at":"2026-05-01 13:00:00.5 +0000 UTC"`:   time.Hour + 500*time.Millisecond, // Go
		`"expires":3600`:                                       time.Hour,
		`"expires_in":"3600s"`:                                 time.Hour,
		`"expires_in":"2026-05-01T13:00:00Z"`:                  time.Hour,
		`"expire":7200`:                                        2 * time.Hour, // Feishu
		`"expireIn":7200`:                                      2 * time.Hour, // DingTalk
		fmt.Sprintf(`"expires_in":%d`, unix):                   time.Hour,
		fmt.Sprintf(`"access_token_expire_in":%d`, unix):       time.Hour, // TikTok Shop
		`"expires":"2026-05-01T13:00:00Z"`:                     time.Hour,
		`"expires_in":"x","expires_at":"2026-05-01T13:00:00Z"`: time.Hour,
	} {
		ans := answer(t, Request{}, nil, `{"access_token":"a",`+members+`}`)
		if ans.Class != "" || ans.AccessToken.Reveal() != "a" || ans.Lifetime != want {
			t.Errorf("%s: class %q, lifetime %v, want %v", members, ans.Class, ans.Lifetime, want)
		}
	}
	if ans := answer(t, Request{}, http.Header{}, "access_token=a&expires_in=3600"); ans.Lifetime != time.Hour {
		t.Errorf("form: lifetime %v", ans.Lifetime)
	}
}

func TestLifetimesOfRefreshTokensAreRead(t *testing.T) {
	t.Parallel()
	for members, want := range map[string]time.Duration{
		`"refresh_token_expires_in":7776000`:                        90 * 24 * time.Hour,
		`"x_refresh_token_expires_in":8726400`:                      101 * 24 * time.Hour, // Intuit
		`"refresh_expires_in":1800`:                                 30 * time.Minute,     // Keycloak
		`"refresh_expires_in":0`:                                    0,                    // Keycloak: it does not expire
		`"refresh_token_expires_at":"2026-05-02T12:00:00Z"`:         24 * time.Hour,       // Square
		fmt.Sprintf(`"refresh_token_expiration":%d`, now.Unix()+60): time.Minute,          // Clover
		fmt.Sprintf(`"refresh_token_expire_in":%d`, now.Unix()+60):  time.Minute,          // TikTok Shop
		`"refresh_token_expires_in":{}`:                             0,
		`"expires_in":60`:                                           0,
	} {
		if ans := answer(t, Request{}, nil, `{"access_token":"a",`+members+`}`); ans.RefreshLifetime != want {
			t.Errorf("%s: got %v, want %v", members, ans.RefreshLifetime, want)
		}
	}
}

func TestAnswerIsReadWhereTheConnectorSays(t *testing.T) {
	t.Parallel()
	def := connector.Definition{Answer: map[string]string{
		"access_token": "body.tokens.0.value", "refresh_token": "body.next", "expires_in": "body.ttl ms",
		"refresh_expires_in": "body.until unix",
	}}
	req := Request{Answer: def.AnswerPaths(), Capture: map[string][]string{"host": {"body", "api"}, "account": {"id"}, "none": {"body", "x"}}}
	ans := answer(t, req, nil, fmt.Sprintf(`{"id":7,"body":{"tokens":[{"value":"a2"}],"next":"r2","ttl":60000,"until":%d,"api":" https://x.test "}}`, now.Unix()+3600))
	if ans.AccessToken.Reveal() != "a2" || ans.RefreshToken.Reveal() != "r2" || ans.Lifetime != time.Minute || ans.RefreshLifetime != time.Hour {
		t.Errorf("lifetimes %v and %v, class %q, or the tokens are others", ans.Lifetime, ans.RefreshLifetime, ans.Class)
	}
	if got := fmt.Sprint(ans.Captured); got != "map[account:7 host:https://x.test]" {
		t.Errorf("captured %s", got)
	}
	// An endpoint that answers as RFC 6749 has it after all is understood, too.
	if ans := answer(t, req, nil, `{"access_token":"a3","expires_in":60}`); ans.AccessToken.Reveal() != "a3" || ans.Lifetime != time.Minute {
		t.Errorf("class %q, lifetime %v", ans.Class, ans.Lifetime)
	}
	for text, want := range map[string]time.Duration{"t": time.Hour, "t rfc3339": time.Hour, "u unix_ms": time.Hour, "u unix": (1<<31 - 1) * time.Second} {
		def := connector.Definition{Answer: map[string]string{"expires_at": text}}
		ans := answer(t, Request{Answer: def.AnswerPaths()}, nil, fmt.Sprintf(`{"access_token":"a","t":"2026-05-01T13:00:00Z","u":%d}`, (now.Unix()+3600)*1000))
		if ans.Lifetime != want {
			t.Errorf("expires_at %s: got %v, want %v", text, ans.Lifetime, want)
		}
	}
}

func TestDeflateIsDecodedInBothForms(t *testing.T) {
	t.Parallel()
	const body = `{"access_token":"a2"}`
	var wrapped, raw bytes.Buffer
	z := zlib.NewWriter(&wrapped)
	f, _ := flate.NewWriter(&raw, flate.BestSpeed)
	for _, w := range []io.WriteCloser{z, f} {
		_, _ = io.WriteString(w, body)
		_ = w.Close()
	}
	for what, sent := range map[string]string{"zlib": wrapped.String(), "raw": raw.String(), "not compressed": body} {
		if ans := answer(t, Request{}, http.Header{"Content-Encoding": {"deflate"}}, sent); ans.AccessToken.Reveal() != "a2" {
			t.Errorf("%s: class %q, code %q", what, ans.Class, ans.Code)
		}
	}
}

func TestTokensAreTrimmedAndKeptApartFromWords(t *testing.T) {
	t.Parallel()
	ans := answer(t, Request{}, nil, `{"access_token":" a2\r\n","refresh_token":"r2\n"}`)
	if ans.AccessToken.Reveal() != "a2" || ans.RefreshToken.Reveal() != "r2" {
		t.Errorf("class %q, or the tokens have blanks around them", ans.Class)
	}
	if ans := answer(t, Request{}, nil, `{"access_token":"a2","refresh_token":"null"}`); !ans.RefreshToken.IsZero() {
		t.Error("the word null is taken for a refresh token")
	}
	if ans := answer(t, Request{}, nil, `{"access_token":"a\n2","refresh_token":"r2"}`); ans.Class != record.ClassTransient || ans.RefreshToken.Reveal() != "r2" {
		t.Errorf("an access token that no header can carry: class %q", ans.Class)
	}
	if ans := answer(t, Request{}, http.Header{}, `access_token=a2&refresh_token=100%;x+y`); ans.RefreshToken.Reveal() != "100%;x+y" {
		t.Error("a form value that was never encoded is lost")
	}
}

func TestTheOutermostRefreshTokenIsKept(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		`{"a":{"b":{"refresh_token":"deep"}},"z":{"refresh_token":"outer"}}`: "outer",
		`{"data":{"refreshToken":"camel"}}`:                                  "camel",
		`{"data":{"refresh_token":"sent"},"x":[{"refresh_token":"next"}]}`:   "next",
		`{"data":{"refresh_token":""}}`:                                      "",
		`{"access_token":"a2",}, "refresh_token" : "broken \u0041"`:          "broken A",
	} {
		ans := answer(t, Request{}, nil, body)
		if got := ans.RefreshToken.Reveal(); got != want || (want != "") != (ans.Class == record.ClassTransient) {
			t.Errorf("%s: got %q, class %q, want %q", body, got, ans.Class, want)
		}
	}
}

func TestRequestsAreMadeAsTheConnectorSays(t *testing.T) {
	t.Parallel()
	var got *http.Request
	var body []byte
	rt := transport(func(r *http.Request) (*http.Response, error) {
		got, body = r, nil
		if r.Body != nil {
			body, _ = io.ReadAll(r.Body)
		}
		return &http.Response{StatusCode: http.StatusFound, Header: http.Header{"Location": {"/"}}, Body: http.NoBody}, nil
	})
	req := Request{
		URL: "https://acme.test/token?v=1", Client: record.Client{ID: "id", Secret: secret.New("p+q/r=")}, Style: connector.AuthParams,
		Params: url.Values{"grant_type": {"refresh_token"}}, Header: map[string]string{"x-tenant": "t1"}, SentAt: now,
	}
	send := func() record.Answer { return Send(context.Background(), rt, req) }

	send()
	if got.Method != http.MethodPost || string(body) != "client_id=id&client_secret=p%2Bq%2Fr%3D&grant_type=refresh_token" || got.GetBody != nil {
		t.Errorf("form: %s %s", got.Method, body)
	}
	for name, want := range map[string]string{
		"X-Tenant": "t1", "Accept": "application/json", "Accept-Encoding": "identity", "Content-Type": "application/x-www-form-urlencoded",
		"Authorization": "", "User-Agent": userAgent,
	} {
		if got.Header.Get(name) != want {
			t.Errorf("header %s is %q, want %q", name, got.Header.Get(name), want)
		}
	}
	if !strings.HasPrefix(userAgent, "token-broker/") {
		t.Errorf("User-Agent %q", userAgent)
	}

	req.JSON, req.Style = true, connector.AuthHeaderRaw
	req.Header["User-Agent"] = "acme"
	send()
	if string(body) != `{"grant_type":"refresh_token"}` || got.Header.Get("User-Agent") != "acme" {
		t.Errorf("JSON: %s, User-Agent %q", body, got.Header.Get("User-Agent"))
	}
	if id, clientSecret, _ := got.BasicAuth(); id != "id" || clientSecret != "p+q/r=" {
		t.Errorf("Basic %q", id)
	}

	req.JSON, req.Method, req.Style = false, connector.MethodGet, connector.AuthHeader
	send()
	if got.Method != http.MethodGet || got.URL.RawQuery != "v=1&grant_type=refresh_token" || body != nil || got.Header.Get("Content-Type") != "" {
		t.Errorf("GET: %s %s, body %q", got.Method, got.URL.RawQuery, body)
	}
	if _, clientSecret, _ := got.BasicAuth(); clientSecret != "p%2Bq%2Fr%3D" {
		t.Error("the secret is not form-encoded")
	}
	if len(req.Params) != 1 {
		t.Error("the caller's parameters were changed")
	}
}

// FuzzAnswer holds every answer to one of the outcomes that the engine knows.
func FuzzAnswer(f *testing.F) {
	for _, s := range []string{`{"access_token":"a","expires_in":1e999}`, `[{"refresh_token":"r"}]`, "access_token=%", "\x1f\x8b", `{"a":` + strings.Repeat("[", 50)} {
		f.Add("gzip", s)
		f.Add("deflate", s)
	}
	f.Fuzz(func(t *testing.T, coding, body string) {
		ans := answer(t, Request{Capture: map[string][]string{"x": {"0", "a"}}}, http.Header{"Content-Encoding": {coding}}, body)
		switch {
		case ans.Lifetime < 0 || ans.RefreshLifetime < 0:
			t.Errorf("lifetimes %v and %v", ans.Lifetime, ans.RefreshLifetime)
		case ans.Class == "" && ans.AccessToken.IsZero():
			t.Error("a success without a token")
		case ans.Class == record.ClassAmbiguous && !ans.RefreshToken.IsZero():
			t.Error("a refresh token is lost")
		}
	})
}

// A gateway may wrap what the token endpoint said.
func TestRefusalInsideAString(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		`{"message":"{\"error\":\"invalid_grant\"}"}`:            "invalid_grant",
		`{"error":{"message":"{\"error\": \"invalid_grant\"}"}}`: "invalid_grant",
		`"invalid_grant"`:           "invalid_grant",
		`{"message":"{\"error\":"}`: "",
		`{"message":"` + strings.Repeat(`{\"message\":`, 10_000) + `"}`:         "",
		strings.Repeat(`{"message":`, 5_000) + "1" + strings.Repeat("}", 5_000): "",
	} {
		if got := (&exchange{body: []byte(body), complete: true}).readRefusal().word([]string{"invalid_grant"}); got != want {
			t.Errorf("%.60s: found %q, want %q", body, got, want)
		}
	}
}

func TestWrappedRefusalIsReadLikeOneOfItsOwn(t *testing.T) {
	t.Parallel()
	number := (&exchange{body: []byte(`{"message":"{\"code\":36004001}"}`), complete: true}).readRefusal()
	if number.word([]string{"36004001"}) == "" {
		t.Errorf("a number in it is lost: %q", number.values)
	}
	for body, want := range map[string]string{
		`{"detail":"{\"error\":\"inner\"}","error":"outer"}`:     "outer",
		`{"data":{"error":"inner"},"error":"outer"}`:             "outer",
		`{"data":{"error":"inner"},"error":""}`:                  "inner",
		`{"error_response":{"code":"second"},"error":"first"}`:   "first",
		`{"error_response":{"code":"second"},"error":{}}`:        "second",
		`[{"error":"first"},{"error":"second"}]`:                 "first",
		`{"result":{"error":"second"},"data":{"error":"first"}}`: "first",
	} {
		for range 20 { // a map has no order
			if got := (&exchange{body: []byte(body), complete: true}).readRefusal().code; got != want {
				t.Fatalf("%s: the code is %q, want %q", body, got, want)
			}
		}
	}
}

// A new refresh token is saved before anything else counts, and a token is a token whatever is
// beside it.
func TestErrorBesideTokens(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]struct {
		class         record.Class
		code, refresh string
	}{
		`{"error":"invalid_grant","refresh_token":"r2"}`:                {record.ClassTransient, record.CodeNoAccessToken, "r2"},
		`{"error":"invalid_client","a":[{"refreshToken":"r2"}]}`:        {record.ClassTransient, record.CodeNoAccessToken, "r2"},
		`{"error":{"code":"x"},"access_token":"","refresh_token":"r2"}`: {record.ClassTransient, record.CodeNoAccessToken, "r2"},
		`{"error":"invalid_grant","refresh_token":"sent"}`:              {record.ClassPermanent, "invalid_grant", ""},
		`{"error":"invalid_grant","refresh_token":null}`:                {record.ClassPermanent, "invalid_grant", ""},
		`{"error":"invalid_grant","access_token":"a2"}`:                 {"", "", ""},
		`{"error":"x","access_token":"a2","refresh_token":"r2"}`:        {"", "", "r2"},
		`{"error":null,"access_token":"a2","refresh_token":"r2"}`:       {"", "", "r2"},
		`{"error":null,"refresh_token":"r2"}`:                           {record.ClassTransient, record.CodeNoAccessToken, "r2"},
		`{"tokens":{"refresh_token":{"value":"r2"}}}`:                   {record.ClassTransient, record.CodeNoAccessToken, "r2"},
		`{"access_token":"undefined","refresh_token":"undefined"}`:      {record.ClassAmbiguous, record.CodeUnusableAnswer, ""},
		`{"status":"error","message":"invalid_grant"}`:                  {record.ClassPermanent, "invalid_grant", ""},
		`{"success":"false","message":"x"}`:                             {record.ClassRefused, "http_200", ""},
		`{"status":401,"message":"Unauthorized"}`:                       {record.ClassRefused, "http_200", ""},
		`{"status":"pending"}`:                                          {record.ClassAmbiguous, record.CodeUnusableAnswer, ""},
		`{"error":null}`:                                                {record.ClassAmbiguous, record.CodeUnusableAnswer, ""},
		`{"error":""}`:                                                  {record.ClassAmbiguous, record.CodeUnusableAnswer, ""},
		`{"error":false}`:                                               {record.ClassAmbiguous, record.CodeUnusableAnswer, ""},
		`{"error":0}`:                                                   {record.ClassAmbiguous, record.CodeUnusableAnswer, ""},
	} {
		ans := answer(t, Request{}, nil, body)
		refresh := ans.RefreshToken.Reveal()
		if refresh == "sent" {
			refresh = "" // as good as none
		}
		if ans.Class != want.class || ans.Code != want.code || refresh != want.refresh {
			t.Errorf("%s: got %q, %q, %q; want %q", body, ans.Class, ans.Code, refresh, want)
		}
	}
}
