package tokenendpoint

import (
	"bytes"
	"encoding/json"
	"mime"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// members returns the response as a JSON value, with numbers as [json.Number]. A form becomes an
// object of strings. It is nil if the response is neither. The Content-Type does not matter:
// that of many endpoints is wrong.
func (x *exchange) members() any {
	body := bytes.TrimSpace(x.body)
	if len(body) == 0 {
		return nil
	}
	switch body[0] {
	case '{', '[':
		// What follows the value, such as a server's own comment, is left alone.
		dec := json.NewDecoder(bytes.NewReader(body))
		dec.UseNumber()
		var value any
		if dec.Decode(&value) != nil {
			return nil
		}
		return value
	case '<':
		return nil
	default:
		return x.form(body)
	}
}

// form returns the members of a form, nil if the body is none.
func (x *exchange) form(body []byte) any {
	if !x.complete {
		return nil // the last value may be half
	}
	form := make(map[string]any)
	for pair := range strings.SplitSeq(string(body), "&") {
		name, value, _ := strings.Cut(pair, "=")
		form[unescape(name)] = unescape(value)
	}
	kind, _, _ := mime.ParseMediaType(x.header.Get("Content-Type"))
	if kind == "application/x-www-form-urlencoded" || kind == "text/plain" {
		return form
	}
	for _, name := range []string{"access_token", "refresh_token", "error"} {
		if form[name] != nil {
			return form
		}
	}
	return nil
}

// unescape decodes a part of a form. One that was never encoded stays as it is.
func unescape(s string) string {
	if decoded, err := url.QueryUnescape(s); err == nil {
		return decoded
	}
	return s
}

// lookup returns the value at a path of member names and list indices, nil if there is none.
func lookup(value any, path []string) any {
	for _, name := range path {
		switch v := value.(type) {
		case map[string]any:
			value = v[name]
		case []any:
			i, err := strconv.Atoi(name)
			if err != nil || i < 0 || i >= len(v) {
				return nil
			}
			value = v[i]
		default:
			return nil
		}
	}
	return value
}

// member returns a member of the answer's top level: the one of that name, or else one
// whose name differs only in case and separators, accessToken for access_token.
func member(answer any, name string) any {
	object, _ := answer.(map[string]any)
	if value, ok := object[name]; ok {
		return value
	}
	plain := plainName(name)
	for _, other := range sortedNames(object) {
		if plainName(other) == plain {
			return object[other]
		}
	}
	return nil
}

func plainName(name string) string {
	return strings.ToLower(strings.NewReplacer("_", "", "-", "", ".", "").Replace(name))
}

func sortedNames(object map[string]any) []string {
	names := make([]string, 0, len(object))
	for name := range object {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// scalarText returns a string, number or boolean as text.
func scalarText(value any) string {
	switch v := value.(type) {
	case string:
		return v
	case json.Number:
		return v.String()
	case bool:
		return strconv.FormatBool(v)
	default:
		return ""
	}
}
