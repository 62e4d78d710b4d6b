// Package caller authenticates the applications that call the token broker.
package caller

import (
	"net/http"
	"strings"

	"github.com/tokenbroker/caddy-token-broker/broker"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/apideck"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/apierror"
)

// Authenticate checks the application id and API key of a request and returns the
// application.
func (k *Keyring) Authenticate(header http.Header) (string, error) {
	authorization, err := apideck.OnlyValue(header, "Authorization")
	if err != nil {
		return "", err
	}
	if authorization == "" {
		return "", apierror.Unauthorized("Missing authentication: send Authorization: Bearer <api key>")
	}
	application, err := apideck.RequiredValue(header, apideck.AppHeader)
	if err != nil {
		return "", err
	}
	scheme, key, _ := strings.Cut(authorization, " ")
	if !strings.EqualFold(scheme, "Bearer") { // RFC 9110 section 11.1
		return "", apierror.Unauthorized("Unknown authentication scheme: send Authorization: Bearer <api key>")
	}
	return application, k.authenticate(application, broker.NewSecret(strings.TrimSpace(key)))
}
