package transport

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
	header      string // the header that the placeholder reads
}

func prepareValue(text string) requestValue {
	v := requestValue{text: text, isStatic: !strings.ContainsAny(text, "{}")}
	const header = "http.request.header."
	inner, opened := strings.CutPrefix(text, "{")
	inner, closed := strings.CutSuffix(inner, "}")
	if name, ok := strings.CutPrefix(inner, header); ok && opened && closed && isToken(name) {
		v.header = http.CanonicalHeaderKey(name) // as the replacer would make it each time
		v.placeholder = header + v.header
	}
	return v
}

// isToken reports whether a placeholder's name is plain, so that the replacer would
// find nothing else in it.
func isToken(s string) bool {
	return s != "" && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") == ""
}

// of returns the value for the request of repl. sent are the headers of that request as
// far as they are known to be the caller's, which are read sooner than placeholders.
func (v *requestValue) of(repl *caddy.Replacer, sent http.Header) string {
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
