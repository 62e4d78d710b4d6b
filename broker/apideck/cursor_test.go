package apideck

import (
	"encoding/json"
	"strings"
	"testing"
)

// What eachMember finds is what encoding/json finds.
func FuzzEachMember(f *testing.F) {
	for _, seed := range []string{
		`{}`, ` { "a" : [ 1 , {"b":"]}"} ] ,"c":-1.5e3 , "d\u00e9\"":"\\" , "e":{ } , "f":true,"g":null } `, `{"a":[[],[[]],{}],"b":"{"}`,
		`{"a":1,"a":2}`, `{"":""}`, `[{"a":1}]`, `{"a":"\\\"}"}`, `{"a":1} {}`, `{"a":1`, `"x"`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		got := make(map[string]string)
		err := eachMember("", body, nil, func(string) memberFunc {
			return func(name string, raw json.RawMessage) error {
				got[name] = string(raw)
				return nil
			}
		})
		if checkText(body, "") != nil {
			return // eachMember gets no such body
		}
		var want map[string]json.RawMessage
		if json.Unmarshal(body, &want) != nil || want == nil {
			if err == nil {
				t.Fatal("accepted what is no object")
			}
			return
		}
		if err != nil {
			if !strings.Contains(err.Error(), "is sent twice") {
				t.Fatalf("an object is refused: %v", err)
			}
			return
		}
		for name, raw := range want {
			if _, ok := got[name]; ok == (string(raw) == "null") || ok && got[name] != string(raw) {
				t.Fatalf("member %q is %q, want %q", name, got[name], raw)
			}
		}
	})
}

func TestStringsAreUnquotedAsByTheDecoder(t *testing.T) {
	t.Parallel()
	for _, raw := range []string{`""`, `"a b"`, `"é"`, `"\u00e9\n\"\\"`, `"\ud83d\ude00"`} {
		var want string
		if err := json.Unmarshal([]byte(raw), &want); err != nil {
			t.Fatal(err)
		}
		if got, err := unquote(json.RawMessage(raw)); err != nil || got != want {
			t.Errorf("unquote(%s) = %q, %v; want %q", raw, got, err, want)
		}
	}
}
