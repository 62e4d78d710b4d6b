package tokenendpoint

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"maps"
	"mime"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// members returns the response as a JSON value, with numbers as [json.Number]. A form, or a flat
// XML document, becomes an object of strings. It is nil if the response is none of these. The
// Content-Type does not matter: that of many endpoints is wrong.
func (x *exchange) members() any {
	body := bytes.TrimSpace(x.body)
	if len(body) == 0 {
		return nil
	}
	switch body[0] {
	case '{', '[', '"':
		return decodeJSON(body)
	case '<':
		if object := elements(body); isAnswer(object) {
			return object
		}
		return embedded(body)
	}
	form := x.form(body)
	if isAnswer(form) {
		return form
	}
	if object := embedded(body); object != nil {
		return object
	}
	kind, _, _ := mime.ParseMediaType(x.header.Get("Content-Type"))
	if form != nil && (kind == "application/x-www-form-urlencoded" || kind == "text/plain") {
		return form
	}
	return nil
}

// isAnswer reports whether an object has a token or an error.
func isAnswer(object map[string]any) bool {
	return slices.ContainsFunc([]string{"access_token", "refresh_token", "error"}, func(name string) bool { return member(object, name) != nil })
}

// decodeJSON returns the JSON value that text begins with, nil if there is none. What follows it,
// such as a server's own comment, is left alone. A string that holds an object is taken as that.
func decodeJSON(text []byte) any {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber() // a code must come out as it is written
	var value any
	if dec.Decode(&value) != nil {
		return nil
	}
	if s, ok := value.(string); ok && strings.HasPrefix(s, "{") {
		return decodeJSON([]byte(s))
	}
	return value
}

// embedded returns the object in a text that has something before it: the name of a function
// (JSONP), a guard against scripts, a warning of the server. A page of HTML has none.
func embedded(text []byte) any {
	begin := bytes.IndexByte(text, '{')
	if begin < 0 || isPage(text) {
		return nil
	}
	if object, _ := decodeJSON(text[begin:]).(map[string]any); isAnswer(object) {
		return object
	}
	return nil
}

// isPage reports whether a text begins like a page of HTML.
func isPage(text []byte) bool {
	start := bytes.ToLower(text[:min(len(text), 64)])
	return bytes.HasPrefix(start, []byte("<!doctype")) || bytes.HasPrefix(start, []byte("<html"))
}

// elements returns the texts of an XML document by the names of their elements, nil if the text
// is none. Some servers answer in XML whatever the request accepts.
func elements(text []byte) map[string]any {
	dec := xml.NewDecoder(bytes.NewReader(text))
	object := make(map[string]any)
	content := ""
	for {
		token, err := dec.Token()
		switch token := token.(type) {
		case xml.StartElement:
			content = ""
		case xml.CharData:
			content += string(token)
		case xml.EndElement:
			if content = strings.TrimSpace(content); content != "" && object[token.Name.Local] == nil {
				object[token.Name.Local] = content
			}
			content = ""
		}
		if errors.Is(err, io.EOF) {
			return object
		}
		if err != nil {
			return nil
		}
	}
}

// form returns the members of a form, nil if the body is none.
func (x *exchange) form(body []byte) map[string]any {
	if !x.complete {
		return nil // the last value may be half
	}
	form := make(map[string]any)
	for pair := range strings.SplitSeq(string(body), "&") {
		name, value, _ := strings.Cut(pair, "=")
		form[unescape(name)] = unescape(value)
	}
	return form
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
	same := "" // the first of several
	for other := range object {
		if isSameName(other, name) && (same == "" || other < same) {
			same = other
		}
	}
	if same == "" {
		return nil
	}
	return object[same]
}

// isSameName reports whether two names or words differ only in the case of ASCII letters and in
// separators.
func isSameName(a, b string) bool {
	const separators = "_-. "
	for {
		a, b = strings.TrimLeft(a, separators), strings.TrimLeft(b, separators)
		if a == "" || b == "" {
			return a == b
		}
		if lower(a[0]) != lower(b[0]) {
			return false
		}
		a, b = a[1:], b[1:]
	}
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}

func sortedNames(object map[string]any) []string { return slices.Sorted(maps.Keys(object)) }

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
