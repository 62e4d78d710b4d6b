package apideck

import (
	"net/http"
	"slices"
	"strings"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// Names of headers, in canonical form.
const (
	// The caller.
	AppHeader      = "X-Apideck-App-Id"
	ConsumerHeader = "X-Apideck-Consumer-Id"

	// The connection of a call, and the URL that it goes to.
	UnifiedAPIHeader    = "X-Apideck-Unified-Api"
	ServiceHeader       = "X-Apideck-Service-Id"
	DownstreamURLHeader = "X-Apideck-Downstream-Url"

	// Further request headers of the Proxy API. An empty header counts as absent: official
	// clients send all of them, set or not.
	MethodHeader        = "X-Apideck-Downstream-Method"
	AuthorizationHeader = "X-Apideck-Downstream-Authorization"
	TimeoutHeader       = "X-Apideck-Timeout"

	// NoAuthorization is the value of AuthorizationHeader that sends a call without a credential.
	NoAuthorization = "none"

	// DryRunHeader asks an import only to say what it would do.
	DryRunHeader = "X-Token-Broker-Dry-Run"

	// StandbyHeader puts the connection of an import into standby, or activates it.
	StandbyHeader = "X-Token-Broker-Standby"

	// Response headers of the Proxy API.
	RequestIDHeader       = "X-Apideck-Request-Id"
	DownstreamErrorHeader = "X-Apideck-Downstream-Error"
)

// callersOwn and callersPrefixes are the request headers that never reach downstream, since
// they concern only the caller and the broker. Names are canonical.
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

// IsCallersOwn reports whether a request header concerns only the caller and the broker, so
// that it must not reach downstream.
func IsCallersOwn(name string) bool {
	switch name {
	case "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", ConsumerHeader: // on nearly every request
		return true
	}
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

// RequiredValue is like [OnlyValue], but an absent or empty header is an error too.
func RequiredValue(header http.Header, name string) (string, error) {
	value, err := OnlyValue(header, name)
	if err == nil && value == "" {
		err = &record.InputError{Kind: record.InputHeaderMissing, Field: strings.ToLower(name), Fix: "send the header"}
	}
	return value, err
}

// OnlyValue returns the value of the header with that canonical name, empty if it is absent. A
// repeated header is an [*record.InputError]: one reader would take the first value and another
// the last, and they would disagree about the caller.
func OnlyValue(header http.Header, name string) (string, error) {
	values := header[name]
	if len(values) > 1 {
		return "", &record.InputError{
			Kind: record.InputHeader, Field: strings.ToLower(name),
			Fault: "is sent more than once", Fix: "send the header once",
		}
	}
	if len(values) == 0 {
		return "", nil
	}
	return values[0], nil
}

// BoolValue returns the value of the header with that canonical name, which must be true or
// false; nil if it is absent or empty. Its error is an [*record.InputError].
func BoolValue(header http.Header, name string) (*bool, error) {
	value, err := OnlyValue(header, name)
	switch {
	case err != nil || value == "":
		return nil, err
	case value == "true" || value == "false":
		return new(value == "true"), nil
	}
	return nil, &record.InputError{Kind: record.InputHeader, Field: strings.ToLower(name), Fault: "must be true or false"}
}
