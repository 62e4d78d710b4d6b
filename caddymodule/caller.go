package caddymodule

import (
	"net/http"
	"strings"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// The headers by which callers say who they are.
const (
	appHeader      = "X-Apideck-App-Id"
	consumerHeader = "X-Apideck-Consumer-Id"
)

// authenticate checks the application's id and API key in the headers of a request
// and returns the application.
func (a *App) authenticate(header http.Header) (string, error) {
	authorization, err := onlyValue(header, "Authorization")
	if err != nil {
		return "", err
	}
	if authorization == "" {
		return "", unauthorized("Missing authentication: send Authorization: Bearer <api key>")
	}
	application, err := requiredValue(header, appHeader)
	if err != nil {
		return "", err
	}
	scheme, key, _ := strings.Cut(authorization, " ")
	if !strings.EqualFold(scheme, "Bearer") { // RFC 9110 section 11.1
		return "", unauthorized("Unknown authentication scheme: send Authorization: Bearer <api key>")
	}
	return application, a.keyring.Authenticate(application, secret.New(strings.TrimSpace(key)))
}

func requiredValue(header http.Header, name string) (string, error) {
	value, err := onlyValue(header, name)
	if err == nil && value == "" {
		err = &record.InputError{Kind: record.InputHeaderMissing, Field: strings.ToLower(name), Fix: "send the header"}
	}
	return value, err
}

// onlyValue returns the value of a header with a canonical name, empty if there is none.
// Two are an error: who reads the first and who reads the last would not agree on the
// caller.
func onlyValue(header http.Header, name string) (string, error) {
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
