package apideck

import (
	"encoding/json"
	"testing"
	"unicode/utf8"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

func TestHalfACharacterIsRefused(t *testing.T) {
	t.Parallel()
	for text, lone := range map[string]bool{
		`k\ud800x`: true, `\ud800`: true, `\udc00`: true, `\uDBFF\uD800`: true, `\ud800\u0041`: true, `\udc00\ud800`: true, `\ud83d\ude00\ud83d`: true,
		`\ud83d\ude00`: false, `\uD83D\uDE00`: false, `\\ud800`: false, `\\\ud800`: true, `\\\\ud800`: false, `\ufffd`: false, `\u0041\n\"`: false, `ud800`: false,
		`\ud83d\\ude00`: true, `\ud83d\nx`: true, `\u00e9`: false,
	} {
		body := []byte(`{"metadata": {"a": "` + text + `"}}`)
		_, err := ParseImport(body)
		if lone {
			wantInputError(t, err, record.InputSyntax, "")
		} else if err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if _, err := ParseImport([]byte(`{"settings": {"` + text + `": 1}}`)); err == nil == lone {
			t.Errorf("%s as a name: got %v", text, err)
		}
	}
}

func FuzzLoneSurrogate(f *testing.F) {
	for _, s := range []string{`"\ud800"`, `"\ud83d\ude00"`, `"\\ud800"`, `{"\udc00":[1]}`, `"\ud83d\\"`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var v any
		if !utf8.Valid(body) || json.Unmarshal(body, &v) != nil {
			_ = hasLoneSurrogate(body) // must not panic
			return
		}
		// The decoder writes U+FFFD for half a character, and for an escape of it.
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if hasLoneSurrogate(body) && !containsReplacement(text) {
			t.Errorf("%s: reported, but decoded to %s", body, text)
		}
	})
}

func containsReplacement(s []byte) bool {
	for _, r := range string(s) {
		if r == utf8.RuneError {
			return true
		}
	}
	return false
}
