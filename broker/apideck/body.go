package apideck

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// MaxBody is the maximum length of a request body, in bytes.
const MaxBody = 1 << 20

// ParseEmpty checks the body of a request that takes none: no bytes, or an empty JSON object.
// Errors are [*record.InputError]s.
func ParseEmpty(body []byte) error {
	if len(bytes.TrimSpace(body)) == 0 {
		return nil
	}
	if err := checkText("", body, ""); err != nil {
		return err
	}
	return eachMember("", body, nil, nil)
}

// A memberFunc parses a member of a JSON object. The name is its path in the body, such as
// "credentials.access_token"; raw is not null.
type memberFunc func(name string, raw json.RawMessage) error

// members are the members that a JSON object may have, by name.
type members map[string]memberFunc

// into returns a function that parses a member and assigns it to *dst.
func into[T any](dst *T, parse func(name string, raw json.RawMessage) (T, error)) memberFunc {
	return func(name string, raw json.RawMessage) (err error) {
		*dst, err = parse(name, raw)
		return err
	}
}

// eachMember calls the function of each member of the JSON object in raw that is not null.
// Unknown and repeated members are errors; the text for unknown ones lists known. Others may be
// tolerated, which returns nil for a member that is not; it may be nil.
//
// It takes the place of [json.Decoder.DisallowUnknownFields], which has three faults here: it
// accepts a repeated member, of which another reader of the body may take the other value, and
// a name in the wrong case; its errors lack the path of the member; and they can quote a
// secret.
func eachMember(path string, raw []byte, known members, tolerated func(name string) memberFunc) error {
	if path == "" { // what is inside is valid then
		if err := checkSyntax(raw); err != nil {
			return err
		}
	}
	return eachValidMember(path, raw, known, tolerated)
}

// eachValidMember is eachMember for valid JSON.
func eachValidMember(path string, raw []byte, known members, tolerated func(name string) memberFunc) error {
	if start := cursor(raw); start.next() != '{' {
		return badBody(path, "must be a JSON object", "")
	}
	var seen nameSet
	for name, value := range Members(raw) {
		full := name
		if path != "" {
			full = path + "." + name
		}
		parse := known[name]
		if parse == nil && tolerated != nil {
			parse = tolerated(name)
		}
		if parse == nil {
			return badBody(quoteName(full), "is not a known member", known.list())
		}
		if !seen.add(name) {
			return badBody(full, "is sent twice", "send it once")
		}
		if bytes.Equal(value, []byte("null")) {
			continue
		}
		if err := parse(full, value); err != nil {
			return err
		}
	}
	return nil
}

// checkSyntax returns an error unless the body is one JSON value.
func checkSyntax(body []byte) error {
	if json.Valid(body) {
		return nil
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	if err := dec.Decode(new(json.RawMessage)); err != nil {
		return syntaxError(err)
	}
	return badBody("", "the body has data after the JSON object", "send one JSON object")
}

// list returns the names of the members, for an error text.
func (m members) list() string {
	if len(m) == 0 {
		return "send an empty object, or no body"
	}
	return "known are " + strings.Join(slices.Sorted(maps.Keys(m)), ", ")
}

// quoteName quotes and truncates an unknown member name, so that the error does not return a
// secret that was sent as a name.
func quoteName(name string) string {
	const most = 40
	if len(name) > most {
		name = strings.ToValidUTF8(name[:most], "") + "..."
	}
	return fmt.Sprintf("%q", name)
}

// checkText returns an error unless the body, or the value at path in it, is non-empty UTF-8 text.
func checkText(path string, body []byte, fix string) error {
	if len(bytes.TrimSpace(body)) == 0 {
		return badText(path, "is empty", fix)
	}
	if !utf8.Valid(body) {
		return badText(path, "is not valid UTF-8", "")
	}
	if hasLoneSurrogate(body) {
		return errLoneSurrogate(path)
	}
	return nil
}

func errLoneSurrogate(path string) error {
	return badText(path, `has half of a surrogate pair, such as \ud800`, "send whole characters")
}

// badText is badBody for the body itself, or the value at path in it.
func badText(path, fault, fix string) error {
	if path == "" {
		fault = "the body " + fault
	}
	return badBody(path, fault, fix)
}

// syntaxError returns an error that locates invalid JSON. It does not wrap the decoder's error,
// which can quote the body.
func syntaxError(err error) *record.InputError {
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return badBody("", fmt.Sprintf("the body is not valid JSON near byte %d", syntax.Offset), "")
	}
	return badBody("", "the body is not valid JSON: it ends too early", "")
}

func badBody(field, fault, fix string) *record.InputError {
	return &record.InputError{Kind: record.InputSyntax, Field: field, Fault: fault, Fix: fix}
}
