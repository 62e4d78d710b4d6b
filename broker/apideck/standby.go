package apideck

import (
	"encoding/base64"
	"encoding/json"
	"fmt"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// maxSwitches bounds how many connections one request can put into standby, or activate.
const maxSwitches = 1000

// Selection is the body of a request that puts connections into standby, or activates them. An
// empty member selects all.
type Selection struct {
	UnifiedAPI, ServiceID, ConsumerID string

	After record.Key // from the cursor, without the application; zero: from the first on
	Limit int        // 0: the default
}

// ParseSelection parses a [Selection]: strict JSON, or no bytes. Errors are
// [*record.InputError]s.
func ParseSelection(body []byte) (*Selection, error) {
	sel := &Selection{}
	if len(body) == 0 {
		return sel, nil
	}
	if err := checkText("", body, ""); err != nil {
		return nil, err
	}
	err := eachMember("", body, members{
		"unified_api": into(&sel.UnifiedAPI, nameMember),
		"service_id":  into(&sel.ServiceID, nameMember),
		"consumer_id": into(&sel.ConsumerID, nameMember),
		"cursor":      into(&sel.After, cursorMember),
		"limit":       into(&sel.Limit, limitMember),
	}, nil)
	if err != nil {
		return nil, err
	}
	return sel, nil
}

// nameMember parses a string that is not empty: an empty one would select more than was meant.
func nameMember(name string, raw json.RawMessage) (string, error) {
	s, err := stringMember(name, raw)
	if err == nil && s == "" {
		err = badBody(name, "is empty", "leave it out to select all")
	}
	return s, err
}

func limitMember(name string, raw json.RawMessage) (int, error) {
	var n int
	if json.Unmarshal(raw, &n) != nil || n < 1 || n > maxSwitches {
		return 0, badBody(name, fmt.Sprintf("must be an integer from 1 to %d", maxSwitches), "")
	}
	return n, nil
}

// A position is the cursor of a page. It is opaque to callers: the names of the last connection, which need not exist any
// longer. The application is the caller's.
type position [3]string

// newCursor returns the cursor of a position, nil for the zero Key.
func newCursor(after record.Key) *string {
	if after == (record.Key{}) {
		return nil
	}
	b, err := json.Marshal(position{after.Consumer, after.Connector.UnifiedAPI, after.Connector.ServiceID})
	if err != nil { // cannot happen: strings always encode
		panic(err)
	}
	return new(base64.RawURLEncoding.EncodeToString(b))
}

func cursorMember(name string, raw json.RawMessage) (record.Key, error) {
	text, err := stringMember(name, raw)
	if err != nil {
		return record.Key{}, err
	}
	var parts []string
	decoded, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || json.Unmarshal(decoded, &parts) != nil || len(parts) != len(position{}) || parts[0] == "" {
		return record.Key{}, badBody(name, "is not one that the token broker has returned", "send the cursor of the response before, or leave it out")
	}
	return record.Key{Consumer: parts[0], Connector: connector.ID{UnifiedAPI: parts[1], ServiceID: parts[2]}}, nil
}

// Switched is the JSON form of what a request with a [Selection] did.
type Switched struct {
	Changed   int             `json:"changed"`
	Unchanged int             `json:"unchanged"`
	Failed    []SwitchFailure `json:"failed"`
}

// SwitchFailure is a connection that could not be put into standby, or activated. Error encodes
// as the body of an error response.
type SwitchFailure struct {
	ConsumerID string         `json:"consumer_id"`
	UnifiedAPI string         `json:"unified_api"`
	ServiceID  string         `json:"service_id"`
	Error      json.Marshaler `json:"error"`
}
