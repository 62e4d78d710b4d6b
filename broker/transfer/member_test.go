package transfer

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/apideck"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// memberSeeds are rows of each kind that the two ways to read one could tell apart.
var memberSeeds = []string{
	`{"consumer_id":"c","unified_api":"crm","service_id":"x","credentials":{"access_token":"a","expires_in":60}}`,
	` {"app":"a", "consumer_id" : "c\u0041", "unified_api":"crm","service_id":"x","settings":{"a":[1,{"b":"}\""}],"c":1.50},"metadata":{}} `,
	`{"consumer_id":"c","unified_api":"crm","service_id":"x","credentials":{"access_token":"a","token_type":"bearer","expires_in":"60","issued_at":"1700000000000"}}`,
	`{"consumer_id":"c","unified_api":"crm","service_id":"x","credentials":null,"error":"e","row":3}`,
	`{"a":1,"a":2}`, `{"a":"\ud800"}`, `{"\ud800":1}`, `{"a":1,}`, `{"a":1}x`, `{"a"`, `[]`, `null`, `{}`, "{\"a\":\"\xff\"}",
}

// FuzzMembers compares the members that are read without a decoder with the decoder's.
func FuzzMembers(f *testing.F) {
	for _, seed := range memberSeeds {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		read := func(each func([]byte, func(string, json.RawMessage) error) error) string {
			var found strings.Builder
			err := each(text, func(name string, value json.RawMessage) error {
				fmt.Fprintf(&found, "%q: %q\n", name, value)
				return nil
			})
			if err != nil {
				return err.Error()
			}
			return found.String()
		}
		got := read(eachMember)
		if json.Valid(text) && strings.ToValidUTF8(string(text), "") == string(text) {
			if want := read(eachDecoded); got != want {
				t.Errorf("%q has the members %s, want %s", text, got, want)
			}
		}
	})
}

// FuzzRowAsRead compares what the broker understands of a row as a file has it, and of that row
// encoded anew.
func FuzzRowAsRead(f *testing.F) {
	for _, seed := range memberSeeds {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		row, isPlain, err := parseRow([]byte(text))
		if err != nil || !isPlain {
			return
		}
		encoded, err := row.AppendJSON(nil)
		if err != nil {
			t.Fatal(err)
		}
		got, want := asBroker(t, text, row.App), asBroker(t, string(encoded), row.App)
		if !reflect.DeepEqual(got, want) {
			t.Errorf("as it is: %v\nencoded: %v", got, want)
		}
	})
}

// asBroker returns what the broker reads of a row.
func asBroker(t *testing.T, row, application string) record.ImportRow {
	t.Helper()
	rows, err := apideck.ParseImports(strings.NewReader(`{"connections":[`+row+`]}`), application)
	if err != nil {
		t.Fatal(err)
	}
	if imp := rows[0].Import; imp != nil {
		imp.ConsumerID = ""
		for _, object := range []*map[string]any{&imp.Settings, &imp.Metadata} {
			if len(*object) == 0 {
				*object = nil // nothing is changed by either
			}
		}
	}
	return rows[0]
}
