package connector

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"
)

// asCaddyEmits is the definition of whole in the spellings that Caddy's adapter emits.
var asCaddyEmits = strings.NewReplacer(
	`"window 30m"`, `{"kind": "window", "window": 1800000000000}`,
	`"keep_alive": "720h"`, `"keep_alive": 2592000000000000`,
	`"refresh_rate": "50/s"`, `"refresh_rate": 50`,
	`"refresh_token": "optional"`, `"refresh_token_optional": true`,
	`{"kind"`, `{"in"`,
)

func TestBothSpellingsAreReadEverywhere(t *testing.T) {
	t.Parallel()
	emitted := strings.ReplaceAll(asCaddyEmits.Replace(whole), `"rotation": {"in"`, `"rotation": {"kind"`)
	mixed := strings.Replace(whole, `"720h"`, `"30d"`, 1)
	mixed = strings.Replace(mixed, `"window 30m"`, `{"kind": "window", "window": "30m"}`, 1)
	want, err := ParseFile([]byte(whole))
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"emitted": emitted, "mixed": mixed} {
		got, err := ParseFile([]byte(text))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s as a file: got %v\n%+v\nwant\n%+v", name, err, got, want)
		}
	}
	for name, text := range map[string]string{"whole": whole, "emitted": emitted, "mixed": mixed} {
		var got Definition
		if err := json.Unmarshal([]byte(text), &got); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got = got.WithDefaults(); !reflect.DeepEqual(got, want) {
			t.Errorf("%s as JSON: got\n%+v\nwant\n%+v", name, got, want)
		}
	}
}

func TestWhatIsEmittedIsReadAgain(t *testing.T) {
	t.Parallel()
	var want, got Definition
	if err := json.Unmarshal([]byte(whole), &want); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &got); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%s became %v\n%+v\nwant\n%+v", b, err, got, want)
	}
}

func TestJSONErrorsNameTheMember(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`{"token_uri": "x"}`:                                 `unknown field "token_uri"`,
		`{"inject": [{"at": "header"}]}`:                     `unknown field "at"`,
		`{"settings": [{"secret": true}]}`:                   `unknown field "secret"`,
		`{"rotation": {"for": "30m"}}`:                       `rotation: unknown field "for"`,
		`{"rotation": 30}`:                                   `rotation: must be text such as "window 30m"`,
		`{"rotation": "window soon"}`:                        `rotation: "soon" is not a duration, such as 30m`,
		`{"rotation": {"kind": "window", "window": "soon"}}`: `rotation: window: "soon" is not a duration, such as 30m`,
		`{"keep_alive": "soon"}`:                             `keep_alive: "soon" is not a duration, such as 720h`,
		`{"keep_alive": true}`:                               `keep_alive: is not a duration`,
		`{"refresh_rate": "50"}`:                             `refresh_rate: "50" is not a number per second, such as 50/s`,
		`{"refresh_rate": "0/s"}`:                            `refresh_rate: "0/s" is not a number per second, such as 50/s`,
		`{"refresh_rate": {}}`:                               `refresh_rate: is not a number per second, such as 50/s`,
		`{"refresh_concurrency": "8"}`:                       `refresh_concurrency: must not be a JSON string`,
		`{"refresh_token": "required"}`:                      `refresh_token: "required": the only allowed value is "optional"`,
		`{"inject": [{"in": "header", "kind": "query"}]}`:    `inject: kind is "query", but in is "header"`,
		`{"inject": [{"name": 1}]}`:                          `inject.name: must not be a JSON number`,
		`{"allow_hosts": "acme.test"}`:                       `allow_hosts: must not be a JSON string`,
		`{"id": "acme"}`:                                     `id: "acme/": a connector is named`,
		`[]`:                                                 `must not be a JSON array`,
	} {
		var d Definition
		if err := json.Unmarshal([]byte(text), &d); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", text, err, want)
		}
	}
}

func TestFilesSayWhatCaddysJSONMayLeaveOut(t *testing.T) {
	t.Parallel()
	const file = `{"id": "crm/acme", "auth_type": "apiKey", "base_url": "https://acme.test", `
	for members, want := range map[string]string{
		`"inject": [{"kind": "basic", "setting": "api_key"}]}`: "inject: basic needs password_setting",
		`"inject": [{"in": "basic", "setting": "api_key"}]}`:   "inject: basic needs password_setting",
		`"keep_alive": "0s"}`:  "keep_alive: \"0s\" is not a duration above zero",
		`"keep_alive": "-1h"}`: "keep_alive: \"-1h\" is not a duration above zero",
	} {
		var d Definition
		if err := json.Unmarshal([]byte(file+members), &d); err != nil {
			t.Errorf("%s: as JSON: %v", members, err)
		}
		if _, err := ParseFile([]byte(file + members)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: as a file: got %v, want %q", members, err, want)
		}
	}
	for _, members := range []string{
		`"inject": [{"kind": "basic", "setting": "api_key", "password": ""}]}`, `"keep_alive": "", "rotation": "", "refresh_token": ""}`,
	} {
		if _, err := ParseFile([]byte(file + members)); err != nil {
			t.Errorf("%s: %v", members, err)
		}
	}
}

func TestEmptyListsOfObjectsOverrideNothing(t *testing.T) {
	t.Parallel()
	var over Definition
	if err := json.Unmarshal([]byte(`{"settings": [], "inject": [], "allow_hosts": []}`), &over); err != nil {
		t.Fatal(err)
	}
	base := acme()
	base.Settings, base.Inject = []Setting{{Name: "a"}}, []Placement{{Kind: InQuery, Name: "t"}}
	if got := Override(base, over); len(got.Settings) != 1 || len(got.Inject) != 1 || len(got.AllowHosts) != 0 {
		t.Errorf("got %+v", got)
	}
}

func TestDurationsHaveDays(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]time.Duration{
		"30d": 720 * time.Hour, "1.5d": 36 * time.Hour, "1d12h": 36 * time.Hour, "-1d": -24 * time.Hour, "90s": 90 * time.Second,
	} {
		if got, err := parseDuration(s); err != nil || got != want {
			t.Errorf("%s: got %s, %v, want %s", s, got, err, want)
		}
	}
	for _, s := range []string{"", "d", "1.2.3d", "1", "1dd", "soon"} {
		if got, err := parseDuration(s); err == nil {
			t.Errorf("%q: got %s, want an error", s, got)
		}
	}
}
