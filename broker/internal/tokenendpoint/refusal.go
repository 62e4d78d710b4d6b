package tokenendpoint

import (
	"bytes"
	"cmp"
	"encoding/json"
	"mime"
	"slices"
	"strconv"
	"strings"
)

// refusalMembers are the members in which token endpoints describe an error, in lower case. RFC
// 6749 section 5.2 defines error and error_description, RFC 9457 title and detail.
var refusalMembers = []string{
	"error", "errors", "code", "status", "message", "error_description", "suberror",
	"error_code", "error_codes", "errorcode", "errcode", "errno", "err_no", "ret", "errmsg", "error_msg", "error_message", "errormessage", "type",
	"error_type", "errortype", "error_subtype", "err", "reason", "description",
	"title", "detail", "details", "msg", "sub_code", "sub_msg", "err_tips", "developermessage", "error_response", "fault", "faultstring",
}

// wrappers are members into which services put a whole response.
var wrappers = []string{"data", "response", "result", "body", "meta"}

// maxText bounds the part that is searched of a body that is neither JSON nor a form, in bytes.
const maxText = 8 << 10

// readRefusal reads the body of a response without a token, as leniently as possible.
func (x *exchange) readRefusal() *refusal {
	f := &refusal{}
	body := bytes.TrimSpace(x.body)
	if len(body) == 0 {
		return f
	}
	value := x.members()
	isText := !bytes.ContainsRune([]byte(`{["`), rune(body[0]))
	switch object, _ := value.(map[string]any); {
	case value != nil && (!isText || member(object, "error") != nil):
		f.readJSON(value)
		return f
	case !isText: // JSON that is broken
		return f
	case body[0] == '<':
		f.foreign = true
	default:
		// "error code: 1020" and the like come from a network in front of the token endpoint.
		kind, _, _ := mime.ParseMediaType(x.header.Get("Content-Type"))
		f.foreign = kind == "text/html" || bytes.HasPrefix(bytes.ToLower(body), []byte("error code:"))
	}
	f.values = []string{string(body[:min(len(body), maxText)])}
	return f
}

// readJSON reads an object, or a list of them, in an order that is always the same. The first
// code that is found counts, and one of an object comes before those of what is wrapped in it.
func (f *refusal) readJSON(value any) {
	switch value := value.(type) {
	case string:
		f.addValues(value)
	case []any: // of objects
		for _, element := range value {
			if object, ok := element.(map[string]any); ok {
				f.readJSON(object)
			}
		}
	case map[string]any:
		f.code = cmp.Or(f.code, codeIn(member(value, "error")), codeIn(member(value, "error_response")))
		for _, name := range sortedNames(value) {
			member, name := value[name], strings.ToLower(name)
			if slices.Contains(refusalMembers, name) {
				f.addValues(member)
			}
			if namesError(name, member) {
				f.named = true
			}
			if slices.Contains(detailMembers, name) || slices.Contains(bodyIDs, name) {
				f.addDetail(name, member)
			}
			if _, isText := member.(string); !isText && slices.Contains(wrappers, name) {
				f.readJSON(member)
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
		value = strings.TrimSpace(value)
		f.values = append(f.values, value)
		if strings.HasPrefix(value, "{") { // a response that a gateway has wrapped
			object := decodeJSON([]byte(value))
			f.addValues(object)
			f.code = cmp.Or(f.code, codeIn(member(object, "error")))
		}
	case json.Number:
		f.values = append(f.values, value.String())
	case []any:
		for _, element := range value {
			f.addValues(element)
		}
	case map[string]any:
		for _, name := range sortedNames(value) {
			f.addValues(value[name])
		}
	}
}

// namesError reports whether a member means an error, even in a 2xx.
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
	case "error_response", "fault":
		return value != nil
	case "ok", "success":
		return value == false || value == "false"
	case "error_description", "error_message", "errormessage":
		return value != nil && value != ""
	case "status":
		switch value := value.(type) {
		case json.Number:
			n, err := value.Int64()
			return err == nil && n >= 400
		case string:
			return slices.Contains([]string{"error", "fail", "failed", "failure"}, strings.ToLower(value))
		}
	case "code", "errno", "err_no", "ret":
		switch value := value.(type) {
		case json.Number:
			return isErrorCode(value.String())
		case string:
			return isErrorCode(value)
		}
	}
	return false
}

// isErrorCode reports whether a code means an error. Some APIs send a code with every response:
// 0, an HTTP status, or a word.
func isErrorCode(code string) bool {
	if n, err := strconv.ParseInt(code, 10, 64); err == nil {
		return n != 0 && (n < 200 || n > 299)
	}
	return code != "" && !slices.Contains([]string{"ok", "success", "succeeded"}, strings.ToLower(code))
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
