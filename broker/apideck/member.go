package apideck

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

func ignoreMember(string, json.RawMessage) error { return nil }

func stringMember(name string, raw json.RawMessage) (string, error) {
	if raw[0] == '"' {
		if s, err := unquote(raw); err == nil {
			return s, nil
		}
	}
	return "", badBody(name, "must be a string", "")
}

func boolMember(name string, raw json.RawMessage) (*bool, error) {
	var b bool
	if json.Unmarshal(raw, &b) != nil {
		return nil, badBody(name, "must be true or false", "")
	}
	return &b, nil
}

// tokenMember parses a token without the space around it: visible ASCII characters and spaces
// (RFC 6749 appendices A.12 and A.17). A header could not carry other characters.
func tokenMember(name string, raw json.RawMessage) (secret.String, error) {
	s, err := stringMember(name, raw)
	if err != nil {
		return secret.String{}, err
	}
	sent := s
	if s = strings.TrimSpace(sent); s == "null" || s == "" && sent != "" { // "" counts as absent
		return secret.String{}, &record.InputError{
			Kind: record.InputInvalid, Field: name,
			Fault: "is empty, or the word null", Fix: "send the token, or omit the member",
		}
	}
	if len(s) > record.MaxToken {
		return secret.String{}, &record.InputError{
			Kind: record.InputInvalid, Field: name,
			Fault: fmt.Sprintf("is longer than %d bytes", record.MaxToken), Fix: "send only the token",
		}
	}
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return secret.String{}, &record.InputError{
				Kind: record.InputInvalid, Field: name,
				Fault: "contains a character that is not allowed in tokens (RFC 6749 appendix A)",
				Fix:   "send the token as the token endpoint returned it, without line breaks",
			}
		}
	}
	return secret.New(s), nil
}

func timeMember(name string, raw json.RawMessage) (time.Time, error) {
	s, err := stringMember(name, raw)
	if err != nil {
		return time.Time{}, err
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return time.Time{}, badBody(name, "must be a date-time (RFC 3339)", `send it like "2026-01-02T15:04:05Z"`)
	}
	if t = t.UTC(); t.Year() < 1 || t.Year() > 9999 {
		return time.Time{}, badBody(name, "is out of range", "send a year from 1 to 9999, in UTC")
	}
	return t, nil
}

// maxLifetime caps expires_in, so that adding it to a time cannot overflow.
const maxLifetime = 100 * 365 * 24 * time.Hour

// secondsMember parses a number of seconds. Like JSON Schema, it accepts 3600.0 and 3.6e3 as
// integers.
func secondsMember(name string, raw json.RawMessage) (*time.Duration, error) {
	const fix = "send the lifetime in seconds, like 3600"
	var n json.Number
	if raw[0] == '"' || json.Unmarshal(raw, &n) != nil {
		return nil, badBody(name, "must be an integer", fix)
	}
	f, err := n.Float64()
	if err != nil || math.Abs(f) > 1e15 { // below that a float64 holds integers exactly
		return nil, badBody(name, "is out of range", fix)
	}
	if f != math.Trunc(f) {
		return nil, badBody(name, "must be an integer", fix)
	}
	if f < 0 {
		return nil, &record.InputError{Kind: record.InputInvalid, Field: name, Fault: "must not be negative", Fix: fix}
	}
	d := maxLifetime
	if f < maxLifetime.Seconds() {
		d = time.Duration(f) * time.Second
	}
	return &d, nil
}

// maxDepth is how deep settings and metadata may be nested. The decoders of stores and callers
// have limits too, and a record that they cannot read is lost.
const maxDepth = 100

// objectMember parses a JSON object and keeps its numbers as they are written.
func objectMember(name string, raw json.RawMessage) (map[string]any, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var o map[string]any
	if raw[0] != '{' || dec.Decode(&o) != nil {
		return nil, badBody(name, "must be a JSON object", "")
	}
	if !isWithinDepth(o, maxDepth) {
		return nil, badBody(name, fmt.Sprintf("is nested more than %d levels deep", maxDepth), "flatten it, or send it as a string")
	}
	return o, nil
}

// isWithinDepth reports whether a JSON value nests at most depth objects and lists.
func isWithinDepth(v any, depth int) bool {
	switch v := v.(type) {
	case map[string]any:
		if depth == 0 {
			return false
		}
		for _, m := range v {
			if !isWithinDepth(m, depth-1) {
				return false
			}
		}
	case []any:
		if depth == 0 {
			return false
		}
		for _, m := range v {
			if !isWithinDepth(m, depth-1) {
				return false
			}
		}
	}
	return true
}
