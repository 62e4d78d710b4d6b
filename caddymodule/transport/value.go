package transport

import (
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

// A requestValue is a configured value that may contain placeholders, parsed ahead of the
// requests.
type requestValue struct {
	text        string // as configured
	isStatic    bool   // has no placeholders
	placeholder string // if text is a single placeholder that reads a header; its name, without braces
	header      string // the header that placeholder reads
}

func prepareValue(text string) requestValue {
	v := requestValue{text: text, isStatic: !strings.ContainsAny(text, "{}")}
	const header = "http.request.header."
	inner, opened := strings.CutPrefix(text, "{")
	inner, closed := strings.CutSuffix(inner, "}")
	if name, ok := strings.CutPrefix(inner, header); ok && opened && closed && isToken(name) {
		v.header = http.CanonicalHeaderKey(name) // as the replacer would do for each request
		v.placeholder = header + v.header
	}
	return v
}

// isToken reports whether a header name in a placeholder is free of characters that mean
// something to the replacer.
func isToken(s string) bool {
	return s != "" && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") == ""
}

// resolve returns the value for repl's request. sent are the request's headers if all of them
// come from the caller, otherwise nil; reading them is faster than the replacer.
func (v *requestValue) resolve(repl *caddy.Replacer, sent http.Header) string {
	switch {
	case v.isStatic:
		return v.text
	case v.placeholder != "":
		if values := sent[v.header]; len(values) == 1 {
			return values[0]
		}
		value, _ := repl.GetString(v.placeholder)
		return value
	default:
		return repl.ReplaceAll(v.text, "")
	}
}
