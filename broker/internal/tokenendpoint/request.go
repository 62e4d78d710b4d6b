// Package tokenendpoint talks to an authorization server. It sends token requests (RFC 6749)
// and revocations (RFC 7009), each once, and classifies the response. It does not know
// connections or stores.
package tokenendpoint

import (
	"net/url"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// A Request is one token request.
type Request struct {
	URL    string
	Client record.Client
	Style  connector.AuthStyle   // how the client authenticates; empty: [connector.AuthHeader]
	Method connector.TokenMethod // empty: [connector.MethodPost]
	JSON   bool                  // send a JSON object of strings, not a form
	Params url.Values            // all parameters but the client's
	Header map[string]string     // further headers
	SentAt time.Time             // lifetimes and Retry-After dates count from it

	Answer  map[string]connector.AnswerPath // where the response has members that are not in their usual places
	Capture map[string][]string             // paths of further values to return, by name

	// The endpoint's own words, by what they mean. A word that begins with "~" is a part of a text.
	PermanentErrors, ConfigurationErrors, TransientErrors, EarlyErrors []string

	Secrets []string // values that no error code in the answer may contain
}
