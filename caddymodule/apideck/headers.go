package apideck

import (
	"slices"
	"strings"
)

// CallersOwn are the request headers that are between the caller and the broker, and do
// not reach downstream by whatever way, besides those that [IsCallersOwn] knows by their
// beginning.
var CallersOwn = []string{
	// They are for the broker.
	"Authorization", "Cookie",
	// They name this listener and who calls it.
	"Forwarded", "X-Real-Ip", "Baggage",
}

// CallersPrefixes are how further ones begin.
var CallersPrefixes = [...]string{"X-Apideck", "X-Token-Broker-", "X-Forwarded-", "Proxy-"}

// IsCallersOwn reports whether a request header is between the caller and the broker.
func IsCallersOwn(name string) bool {
	if slices.Contains(CallersOwn, name) { // of so few this is sooner done than looking it up
		return true
	}
	if name == "" || strings.IndexByte("XxPp", name[0]) < 0 { // most of them, on every request
		return false
	}
	for _, prefix := range CallersPrefixes {
		if strings.HasPrefix(name, prefix) || len(name) >= len(prefix) && strings.EqualFold(name[:len(prefix)], prefix) {
			return true
		}
	}
	return false
}
