package apideck

import (
	"net/http"
	"strings"

	"github.com/tokenbroker/caddy-token-broker/broker"
)

// RequiredValue returns the value of a header, which must be sent exactly once and not be
// empty. The name is canonical.
func RequiredValue(header http.Header, name string) (string, error) {
	value, err := OnlyValue(header, name)
	if err == nil && value == "" {
		err = &broker.InputError{Kind: broker.MissingHeader, Field: strings.ToLower(name), Fix: "send the header"}
	}
	return value, err
}

// OnlyValue returns the value of a header, empty if it is absent. The name is canonical. A
// repeated header is an error: one reader would take the first value and another the last,
// and they would disagree about the caller.
func OnlyValue(header http.Header, name string) (string, error) {
	values := header[name]
	if len(values) > 1 {
		return "", &broker.InputError{
			Kind: broker.BadHeader, Field: strings.ToLower(name),
			Fault: "is sent more than once", Fix: "send the header once",
		}
	}
	if len(values) == 0 {
		return "", nil
	}
	return values[0], nil
}
