package caddymodule

import "strings"

// callersOwn are the request headers that are between the caller and the broker, and do
// not reach downstream by whatever way, besides those that [isCallersOwn] knows by their
// beginning.
var callersOwn = map[string]bool{
	// They are for the broker.
	"Authorization": true, "Cookie": true,
	// They name this listener and who calls it.
	"Forwarded": true, "X-Real-Ip": true, "Baggage": true,
}

// callersPrefixes are how further ones begin.
var callersPrefixes = [...]string{"X-Apideck", "X-Token-Broker-", "X-Forwarded-", "Proxy-"}

// isCallersOwn reports whether a request header is between the caller and the broker.
func isCallersOwn(name string) bool {
	if callersOwn[name] {
		return true
	}
	if name == "" || strings.IndexByte("XxPp", name[0]) < 0 { // most of them, on every request
		return false
	}
	for _, prefix := range callersPrefixes {
		if len(name) >= len(prefix) && strings.EqualFold(name[:len(prefix)], prefix) {
			return true
		}
	}
	return false
}

// hopByHop are the headers that belong to one connection (RFC 9110 section 7.6.1), or
// that net/http writes.
var hopByHop = map[string]bool{
	"Connection": true, "Keep-Alive": true, "Te": true, "Trailer": true, "Transfer-Encoding": true, "Upgrade": true,
}
