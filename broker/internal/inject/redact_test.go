package inject

import (
	"net/http"
	"strings"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

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
		scrub(header, "a/b+c")
		if got := header.Get("X"); got != want {
			t.Errorf("%q: got %q, want %q", value, got, want)
		}
	}
}

// A hostile downstream can send a mebibyte of headers, and a secret can be long.
func TestScrubIsLinear(t *testing.T) {
	t.Parallel()
	hidden := strings.Repeat("a", 64<<10) + "b"
	header := http.Header{"X": {strings.Repeat("%61", 1<<20/3)}}
	scrub(header, hidden)
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
		scrub(header, hidden)
		got := header.Get("X")
		// The parts around a secret may form it again only across the mark that replaced it.
		for rest := range strings.SplitSeq(got, secret.Redacted) {
			if decoded, _ := percentDecoded(rest); strings.Contains(decoded, hidden) {
				t.Errorf("%q still has %q in it: %q", value, hidden, got)
			}
		}
	})
}
