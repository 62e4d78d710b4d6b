// Package tokenendpoint talks to an authorization server. It sends token requests (RFC 6749)
// and revocations (RFC 7009), each once, and classifies the response. It does not know
// connections or stores.
package tokenendpoint

import (
	"net/url"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// A Request is one token request.
type Request struct {
	URL    string
	Client record.Client
	// InParams says that the client authenticates in the body (client_secret_post), not in
	// the Authorization header (client_secret_basic).
	InParams bool
	JSON     bool       // send a JSON object of strings, not a form
	Params   url.Values // all parameters but the client's
	SentAt   time.Time  // lifetimes and Retry-After dates count from it

	PermanentErrors []string // the endpoint's own words for invalid_grant
	Secrets         []string // values that no error code in the answer may contain
}
