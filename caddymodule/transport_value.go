package caddymodule

import (
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

// A requestValue is a field of the configuration that placeholders can stand in,
// prepared so that a request does not pay for parsing it.
type requestValue struct {
	text        string // as it is configured
	isStatic    bool   // there is no placeholder in it
	placeholder string // the only thing in it; empty if there is more
}

func prepareValue(text string) requestValue {
	v := requestValue{text: text, isStatic: !strings.ContainsAny(text, "{}")}
	const header = "http.request.header."
	inner, opened := strings.CutPrefix(text, "{")
	inner, closed := strings.CutSuffix(inner, "}")
	if name, ok := strings.CutPrefix(inner, header); ok && opened && closed && isToken(name) {
		v.placeholder = header + http.CanonicalHeaderKey(name) // as the replacer would make it each time
	}
	return v
}

// isToken reports whether a placeholder's name is plain, so that the replacer would
// find nothing else in it.
func isToken(s string) bool {
	return s != "" && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") == ""
}

// of returns the value for the request of repl.
func (v *requestValue) of(repl *caddy.Replacer) string {
	switch {
	case v.isStatic:
		return v.text
	case v.placeholder != "":
		value, _ := repl.GetString(v.placeholder)
		return value
	default:
		return repl.ReplaceAll(v.text, "")
	}
}
