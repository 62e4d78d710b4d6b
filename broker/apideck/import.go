package apideck

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// MaxBody bounds the body of an import, in bytes.
const MaxBody = 1 << 20

// maxLifetime bounds expires_in, so that no arithmetic with it overflows.
const maxLifetime = 100 * 365 * 24 * time.Hour

// ParseImport reads the body of an import: strict JSON with exactly the members of
// the Vault API's ConnectionImportData, plus consumer_id and credentials.expires_at.
// A member that is null counts as not sent. Errors are [*record.InputError]s and name the
// member.
func ParseImport(body []byte) (*record.Import, error) {
	if err := checkText(body, "send a JSON object with credentials or settings"); err != nil {
		return nil, err
	}
	imp := &record.Import{}
	err := eachMember("", body, members{
		"consumer_id": func(name string, raw json.RawMessage) (err error) {
			imp.ConsumerID, err = stringMember(name, raw)
			return err
		},
		"credentials": func(name string, raw json.RawMessage) (err error) {
			imp.Credentials, err = parseImportCredentials(name, raw)
			return err
		},
		"settings": func(name string, raw json.RawMessage) (err error) {
			imp.Settings, err = objectMember(name, raw)
			return err
		},
		"metadata": func(name string, raw json.RawMessage) (err error) {
			imp.Metadata, err = objectMember(name, raw)
			return err
		},
	}, nil)
	if err != nil {
		return nil, err
	}
	return imp, nil
}

func parseImportCredentials(name string, raw json.RawMessage) (*record.ImportCredentials, error) {
	c := &record.ImportCredentials{}
	err := eachMember(name, raw, members{
		"access_token": func(name string, raw json.RawMessage) (err error) {
			c.AccessToken, err = tokenMember(name, raw)
			return err
		},
		"refresh_token": func(name string, raw json.RawMessage) (err error) {
			c.RefreshToken, err = tokenMember(name, raw)
			return err
		},
		"issued_at": func(name string, raw json.RawMessage) (err error) {
			c.IssuedAt, err = timeMember(name, raw)
			return err
		},
		"expires_at": func(name string, raw json.RawMessage) (err error) {
			c.ExpiresAt, err = timeMember(name, raw)
			return err
		},
		"expires_in": func(name string, raw json.RawMessage) (err error) {
			c.ExpiresIn, err = secondsMember(name, raw)
			return err
		},
	}, nil)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// members are what a JSON object may have, by name, each with what reads it.
type members map[string]func(string, json.RawMessage) error

// eachMember calls the function of every member of the JSON object in raw that is
// not null. Unknown and repeated members are errors, which name known, not tolerated
// ones; names are case-sensitive.
func eachMember(path string, raw []byte, known, tolerated members) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	if tok, err := dec.Token(); err != nil {
		return syntaxError(err)
	} else if tok != json.Delim('{') {
		return badBody(path, "must be a JSON object", "")
	}
	seen := make(map[string]bool)
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return syntaxError(err)
		}
		name, _ := tok.(string) // the decoder refuses other keys
		full := name
		if path != "" {
			full = path + "." + name
		}
		set, ok := known[name]
		if !ok {
			set, ok = tolerated[name]
		}
		if !ok {
			return badBody(quoteName(full), "is not a known member", known.list())
		}
		if seen[name] {
			return badBody(full, "is sent twice", "send it once")
		}
		seen[name] = true
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return syntaxError(err)
		}
		if bytes.Equal(value, []byte("null")) {
			continue
		}
		if err := set(full, value); err != nil {
			return err
		}
	}
	if _, err := dec.Token(); err != nil { // the closing brace
		return syntaxError(err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return badBody("", "the body has data after the JSON object", "send one JSON object")
	}
	return nil
}

// list says which members could be sent.
func (m members) list() string {
	if len(m) == 0 {
		return "send an empty object, or no body"
	}
	return "known are " + strings.Join(slices.Sorted(maps.Keys(m)), ", ")
}

// quoteName bounds and quotes a member name that a stranger made up, so that a
// secret sent as a name does not come back whole.
func quoteName(name string) string {
	const most = 40
	if len(name) > most {
		name = strings.ToValidUTF8(name[:most], "") + "..."
	}
	return fmt.Sprintf("%q", name)
}

func badBody(field, fault, fix string) *record.InputError {
	return &record.InputError{Kind: record.InputSyntax, Field: field, Fault: fault, Fix: fix}
}

// syntaxError reports where the JSON is broken. The decoder's own text is not passed
// on, as it can quote what was sent.
func syntaxError(err error) *record.InputError {
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return badBody("", fmt.Sprintf("the body is not valid JSON near byte %d", syntax.Offset), "")
	}
	return badBody("", "the body is not valid JSON: it ends too early", "")
}

func stringMember(name string, raw json.RawMessage) (string, error) {
	var s string
	if raw[0] != '"' || json.Unmarshal(raw, &s) != nil {
		return "", badBody(name, "must be a string", "")
	}
	return s, nil
}

// tokenMember reads a token: visible ASCII characters and spaces (RFC 6749 appendix
// A.12 and A.17). Anything else could not be sent in a header anyway.
func tokenMember(name string, raw json.RawMessage) (secret.String, error) {
	s, err := stringMember(name, raw)
	if err != nil {
		return secret.String{}, err
	}
	if len(s) > record.MaxToken {
		return secret.String{}, &record.InputError{
			Kind: record.InputInvalid, Field: name,
			Fault: fmt.Sprintf("is longer than %d bytes", record.MaxToken), Fix: "send the token alone",
		}
	}
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return secret.String{}, &record.InputError{
				Kind: record.InputInvalid, Field: name,
				Fault: "contains a character that no token has (RFC 6749 appendix A)",
				Fix:   "send the token as the token endpoint gave it, without line breaks",
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

// secondsMember reads a number of seconds, which JSON schema calls an integer if its
// fraction is zero, however it is written.
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

// maxDepth bounds how deep settings and metadata are nested: decoders of stores and of
// callers have limits of their own, and what one of them cannot read is lost.
const maxDepth = 100

func objectMember(name string, raw json.RawMessage) (map[string]any, error) {
	var o map[string]any
	if raw[0] != '{' || record.DecodeJSON(raw, &o) != nil {
		return nil, badBody(name, "must be a JSON object", "")
	}
	if !isShallow(o, maxDepth) {
		return nil, badBody(name, fmt.Sprintf("is nested more than %d deep", maxDepth), "send it flatter, or as a string")
	}
	return o, nil
}

// isShallow reports whether a JSON value has at most levels objects and lists in each
// other.
func isShallow(v any, levels int) bool {
	switch v := v.(type) {
	case map[string]any:
		if levels == 0 {
			return false
		}
		for _, m := range v {
			if !isShallow(m, levels-1) {
				return false
			}
		}
	case []any:
		if levels == 0 {
			return false
		}
		for _, m := range v {
			if !isShallow(m, levels-1) {
				return false
			}
		}
	}
	return true
}
