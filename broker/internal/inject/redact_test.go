package inject

import (
	"net/http"
	"strings"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// scrubAll redacts a value in one form.
func scrubAll(header http.Header, hidden string) {
	scrub(header, hidden)
	scrubEscaped(header, []string{hidden})
}

func TestScrubFindsASecretInAnyEscaping(t *testing.T) {
	t.Parallel()
	for _, value := range []string{
		`"sk\/live"`, `"sk\u002flive"`, `"sk\u002Flive"`, `"\u0073k/live"`, `"sk\x2flive"`, `sk&#47;live`, `sk&#x2f;live`, `sk&sol;live`, `&#115;k/live`,
		`sk%252Flive`, `sk%25252flive`, `sk%5C%2Flive`, `{"u":"https:\/\/x.test?t=sk%2Flive"}`, `sk&amp;#47;live`, `sk%26%2347%3Blive`, `sk\\/live and sk\/live`,
	} {
		header := http.Header{"X": {value}}
		scrubAll(header, "sk/live")
		if got := header.Get("X"); !strings.Contains(got, "REDACTED") || strings.Contains(got, "live") {
			t.Errorf("%q: got %q", value, got)
		}
	}
	for _, value := range []string{`sk\live`, `sk&live`, `a=1&b=2`, `C:\x`, `&#;&#x;&;\u00`, `100%`} {
		header := http.Header{"X": {value}}
		scrubAll(header, "sk/live")
		if got := header.Get("X"); got != value {
			t.Errorf("%q: got %q, want it unchanged", value, got)
		}
	}
}

func TestScrubFindsASecretInAnyPercentEncoding(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]string{
		"https://x.test/?t=a%2fb%2Bc&u=1":    "https://x.test/?t=REDACTED&u=1",
		"https://x.test/?t=%61%2F%62%2b%63":  "https://x.test/?t=REDACTED",
		"a%2fb+ca/b+c%zz%":                   "REDACTEDREDACTED%zz%",
		"https://x.test/?t=a%2fb%2Bd&u=%41%": "https://x.test/?t=a%2fb%2Bd&u=%41%",
		"a/b+c":                              "REDACTED",
		"100%":                               "100%",
		"%61%61%61%2fb%2bc%61%2fb%2bc":       "%61%61REDACTEDREDACTED",
	} {
		header := http.Header{"X": {value}}
		scrubAll(header, "a/b+c")
		if got := header.Get("X"); got != want {
			t.Errorf("%q: got %q, want %q", value, got, want)
		}
	}
}

func TestScrubEndsForASecretThatIsPartOfTheMark(t *testing.T) {
	t.Parallel()
	header := http.Header{"X": {"%41CTE"}}
	scrubAll(header, "ACTE")
	if got := header.Get("X"); strings.Contains(got, "%41") {
		t.Errorf("got %q", got)
	}
}

// A hostile downstream can send a mebibyte of headers, and a secret can be long.
func TestScrubIsLinear(t *testing.T) {
	t.Parallel()
	hidden := strings.Repeat("a", 64<<10) + "b"
	header := http.Header{"X": {strings.Repeat("%61", 1<<20/3)}}
	scrubAll(header, hidden)
	if strings.Contains(header.Get("X"), secret.Redacted) {
		t.Error("it found a secret that the header does not contain")
	}
}

func FuzzScrub(f *testing.F) {
	f.Add("https://x.test/?t=a%2fb%2Bc", "a/b+c")
	f.Fuzz(func(t *testing.T, value, hidden string) {
		if len(hidden) < 4 || strings.ContainsAny(hidden, secret.Redacted+"%") {
			t.Skip()
		}
		header := http.Header{"X": {value}}
		scrubAll(header, hidden)
		got := header.Get("X")
		// The parts around a secret may form it again only across the mark that replaced it.
		for rest := range strings.SplitSeq(got, secret.Redacted) {
			text := unescaped{text: rest}
			if text = text.unescape(); strings.Contains(text.text, hidden) {
				t.Errorf("%q still has %q in it: %q", value, hidden, got)
			}
		}
	})
}
