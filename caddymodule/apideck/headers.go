package apideck

import (
	"slices"
	"strings"
)

// callersOwn and callersPrefixes are the request headers that never reach downstream: they
// concern only the caller and the broker. Names are canonical.
var callersOwn = []string{
	// Addressed to the broker.
	"Authorization", "Cookie",
	// These name this listener and its caller.
	"Forwarded", "X-Real-Ip", "Baggage",
}

var callersPrefixes = [...]string{"X-Apideck", "X-Token-Broker-", "X-Forwarded-", "Proxy-"}

// CallersOwn returns patterns of the request headers that [IsCallersOwn] matches, in the
// syntax of Caddy's header operations: names, and prefixes followed by an asterisk.
func CallersOwn() []string {
	patterns := slices.Clone(callersOwn)
	for _, prefix := range callersPrefixes {
		patterns = append(patterns, prefix+"*")
	}
	return patterns
}

// IsCallersOwn reports whether a request header concerns only the caller and the broker,
// and must not reach downstream.
func IsCallersOwn(name string) bool {
	if slices.Contains(callersOwn, name) { // faster than a map for so few
		return true
	}
	if name == "" || strings.IndexByte("XxPp", name[0]) < 0 { // the common case, on every request
		return false
	}
	for _, prefix := range callersPrefixes {
		if strings.HasPrefix(name, prefix) || len(name) >= len(prefix) && strings.EqualFold(name[:len(prefix)], prefix) {
			return true
		}
	}
	return false
}
