package tokenendpoint

import (
	"bytes"
	"encoding/json"
	"mime"
	"net/url"
	"slices"
	"strings"
)

// refusalMembers are where token endpoints say what is wrong, in lower case. RFC 6749 section
// 5.2 has error and error_description alone.
var refusalMembers = []string{
	"error", "errors", "code", "status", "message", "error_description", "suberror",
	"error_code", "error_codes", "errorcode", "errcode", "errmsg", "error_message", "type",
}

// maxText bounds how much is searched of a body that is neither JSON nor a form, in bytes.
const maxText = 8 << 10

// readRefusal reads the body of a response without a token, as leniently as possible.
func readRefusal(body []byte, contentType string) *refusal {
	f := &refusal{}
	body = bytes.TrimSpace(bytes.TrimPrefix(body, []byte("\xef\xbb\xbf"))) // RFC 8259 section 8.1
	if len(body) == 0 {
		return f
	}
	if json.Valid(body) {
		dec := json.NewDecoder(bytes.NewReader(body))
		dec.UseNumber() // a code must come out as it is written
		var value any
		if dec.Decode(&value) == nil {
			f.readJSON(value)
		}
		return f
	}
	kind, _, _ := mime.ParseMediaType(contentType)
	switch {
	case body[0] == '{' || body[0] == '[': // JSON that is broken
		return f
	case body[0] == '<':
		f.foreign = true
	default:
		if form, err := url.ParseQuery(string(body)); err == nil && form.Has("error") {
			f.readForm(form) // under any label
			return f
		}
		// The latter comes from a network in front of the token endpoint.
		f.foreign = kind == "text/html" || bytes.HasPrefix(bytes.ToLower(body), []byte("error code:"))
	}
	f.values = []string{string(body[:min(len(body), maxText)])}
	return f
}

func (f *refusal) readForm(form url.Values) {
	for name, values := range form {
		if slices.Contains(refusalMembers, strings.ToLower(name)) {
			f.values = append(f.values, values...)
		}
	}
	f.code = form.Get("error")
	f.named = true
}

func (f *refusal) readJSON(value any) {
	switch value := value.(type) {
	case []any: // of objects
		for _, element := range value {
			if object, ok := element.(map[string]any); ok {
				f.readJSON(object)
			}
		}
	case map[string]any:
		for name, member := range value {
			name = strings.ToLower(name)
			if slices.Contains(refusalMembers, name) {
				f.addValues(member)
			}
			if namesError(name, member) {
				f.named = true
			}
			if slices.Contains(detailMembers, name) || slices.Contains(bodyIDs, name) {
				f.addDetail(name, member)
			}
			if name == "error" {
				f.code = codeIn(member)
			}
		}
	}
}

// addDetail keeps a word or a number, or a list of them.
func (f *refusal) addDetail(name string, value any) {
	if f.details == nil {
		f.details = make(map[string][]string)
	}
	switch value := value.(type) {
	case string:
		f.details[name] = append(f.details[name], value)
	case json.Number:
		f.details[name] = append(f.details[name], value.String())
	case []any:
		for _, element := range value[:min(len(value), 3)] {
			f.addDetail(name, element)
		}
	}
}

// addValues adds the strings and numbers in a value.
func (f *refusal) addValues(value any) {
	switch value := value.(type) {
	case string:
		f.values = append(f.values, strings.TrimSpace(value))
	case json.Number:
		f.values = append(f.values, value.String())
	case []any:
		for _, element := range value {
			f.addValues(element)
		}
	case map[string]any:
		for _, member := range value {
			f.addValues(member)
		}
	}
}

// namesError reports whether a member says that something is wrong, also in a 2xx.
func namesError(name string, value any) bool {
	switch name {
	case "error", "errors", "error_code", "errorcode", "errcode":
		switch value := value.(type) {
		case nil:
			return false
		case bool:
			return value
		case string:
			return value != "" && value != "0"
		case json.Number:
			return value != "0"
		case []any:
			return len(value) > 0
		case map[string]any:
			return len(value) > 0
		}
	case "ok", "success":
		return value == false
	}
	return false
}

// codeIn returns the code in a member "error", which may be an object.
func codeIn(member any) string {
	switch member := member.(type) {
	case string:
		return member
	case map[string]any:
		for _, name := range []string{"code", "type", "status"} {
			if code, ok := member[name].(string); ok && code != "" {
				return code
			}
		}
	}
	return ""
}
