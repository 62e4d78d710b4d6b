package apideck

import (
	"encoding/json"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

func TestCursorsComeBackAsTheyWere(t *testing.T) {
	t.Parallel()
	if newCursor(record.Key{}) != nil {
		t.Error("the last page has a cursor")
	}
	for _, consumer := range []string{"jane", "a/b \u00e4 \u2028", "\xff", `"`} {
		after := record.Key{Application: "app", Consumer: consumer, Connector: connector.ID{UnifiedAPI: "crm", ServiceID: "acme"}}
		body, err := json.Marshal(map[string]*string{"cursor": newCursor(after)})
		if err != nil {
			t.Fatal(err)
		}
		sel, err := ParseSelection(body)
		if consumer == "\xff" { // no consumer has this name
			continue
		}
		after.Application = ""
		if err != nil || sel.After != after {
			t.Errorf("got %+v, %v, want %+v", sel, err, after)
		}
	}
}

func FuzzSelection(f *testing.F) {
	f.Add([]byte(``))
	f.Add([]byte(`{"unified_api": "crm", "service_id": "acme", "consumer_id": "jane", "limit": 10}`))
	f.Add([]byte(`{"cursor": "WyJqYW5lIiwiY3JtIiwiYWNtZSJd"}`))
	f.Add([]byte(`{"cursor": "` + *newCursor(record.Key{Consumer: "jane"}) + `", "limit": 1e3}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		sel, err := ParseSelection(body)
		if err != nil {
			return
		}
		if sel.Limit < 0 || sel.Limit > maxSwitches || sel.After.Application != "" {
			t.Errorf("%q: got %+v", body, sel)
		}
	})
}
