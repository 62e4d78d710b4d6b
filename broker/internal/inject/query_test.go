package inject

import (
	"net/url"
	"slices"
	"strings"
	"testing"
)

func TestQueryKeepsItsBytesButForTheInjectedParameter(t *testing.T) {
	t.Parallel()
	const own = "api_key=K"
	for query, want := range map[string]string{
		"":                             own,
		"a=1":                          "a=1&" + own,
		"a=1&":                         "a=1&" + own,
		"&a=1":                         "&a=1&" + own,
		"a=1&&b=2":                     "a=1&&b=2&" + own,
		"&&":                           "&&" + own,
		"%zz=1":                        "%zz=1&" + own,
		"a=%zz&b=%":                    "a=%zz&b=%&" + own,
		"a=b+c%20d%2bE&f={g}&h=\"i\"":  "a=b+c%20d%2bE&f={g}&h=\"i\"&" + own,
		"q=\xff\xfe":                   "q=\xff\xfe&" + own,
		"a;b;c":                        "a;b;c&" + own,
		"api_key=2":                    own,
		"api_key":                      own,
		"api_key=2&a=1":                "a=1&" + own,
		"a=1&api_key=2":                "a=1&" + own,
		"a=1&api_key=2&b=3":            "a=1&b=3&" + own,
		"a=1&api_key=2&&b=3":           "a=1&&b=3&" + own,
		"q=foo;api_key=2":              "q=foo&" + own,
		"q=foo;api_key=2;r=bar":        "q=foo;r=bar&" + own,
		"q=foo;api_key=2&r=bar":        "q=foo&r=bar&" + own,
		"q=foo&api_key=2;r=bar":        "q=foo&r=bar&" + own,
		"api_key=2;q=foo":              "q=foo&" + own,
		"api_key=1&api_key=2":          own,
		"%61pi_key=2&a=1":              "a=1&" + own,
		"api%5Fkey=2&a=1":              "a=1&" + own,
		"api%zz_key=2&a=1":             "a=1&" + own, // where %zz is dropped
		"api%_key=2&a=1":               "a=1&" + own, // where % is dropped
		"%u0061pi_key=2&a=1":           "a=1&" + own, // where %uXXXX is decoded
		"api_key%":                     own,
		"xapi_key=1&api_keys=2&API=3":  "xapi_key=1&api_keys=2&API=3&" + own,
		"url=https://x.test/?api_key=": "url=https://x.test/?api_key=&" + own,
	} {
		u := &url.URL{RawQuery: query}
		setQuery(u, "api_key", "K")
		if u.RawQuery != want {
			t.Errorf("%q: got %q, want %q", query, u.RawQuery, want)
		}
	}
}

// FuzzSetQuery checks that no server reads another value of the parameter, and that nothing
// else is lost.
func FuzzSetQuery(f *testing.F) {
	for _, query := range []string{"", "a=1&k=2", "q=foo;k=2", "&&;;", "%zz=1&%6b=2", "k%=1", "%u006b=1", "k;k&k=;", "a=1;k&b", "+k=1", "%u", "%u00"} {
		f.Add(query, "k", "v")
	}
	f.Fuzz(func(t *testing.T, query, name, value string) {
		if name == "" {
			return
		}
		u := &url.URL{RawQuery: query}
		setQuery(u, name, value)
		own := url.QueryEscape(name) + "=" + url.QueryEscape(value)
		rest, ok := strings.CutSuffix(u.RawQuery, own)
		if !ok || rest != "" && rest[len(rest)-1] != '&' {
			t.Fatalf("%q: got %q, want it to end with %q", query, u.RawQuery, own)
		}
		separates := func(r rune) bool { return r == '&' || r == ';' }
		var want []string
		for part := range strings.FieldsFuncSeq(query, separates) {
			key, _, _ := strings.Cut(part, "=")
			decoded, err := url.QueryUnescape(key)
			switch {
			case err != nil && !setsParameter(part, name), err == nil && decoded != name:
				want = append(want, part)
			}
		}
		if got := strings.FieldsFunc(rest, separates); !slices.Equal(got, want) {
			t.Fatalf("%q: got %q, want %q before %q", query, got, want, own)
		}
	})
}

func BenchmarkSetQuery(b *testing.B) {
	for b.Loop() {
		u := url.URL{RawQuery: "limit=100&cursor=abc%20def&fields=id,name"}
		setQuery(&u, "api_key", "secret")
	}
}
