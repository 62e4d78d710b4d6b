// Package tokenendpoint talks to an authorization server: it sends token requests
// (RFC 6749) and revocations (RFC 7009), each once, and says what the answer means. It
// knows no store and no connection.
package tokenendpoint

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// A Request is one token request.
type Request struct {
	URL    string
	Client record.Client
	// InParams: the client authenticates in the body (client_secret_post), not in the
	// header Authorization (client_secret_basic).
	InParams bool
	JSON     bool       // the body is a JSON object of strings, not a form
	Params   url.Values // grant_type and all others but the client's
	SentAt   time.Time  // now; lifetimes and Retry-After dates count from it

	PermanentErrors []string // the endpoint's own words for invalid_grant
	Secrets         []string // what no error code in an Answer may contain
}

// Send sends one token request, once, without following redirects. rt must not send
// again by itself: HTTP/1.1, on a connection of its own. ctx bounds the time.
func Send(ctx context.Context, rt http.RoundTripper, req Request) record.Answer {
	x := &exchange{base: rt, json: req.JSON}
	style := oauth2.AuthStyleInHeader
	if req.InParams {
		style = oauth2.AuthStyleInParams
	}
	// x/oauth2 builds a form, whatever the grant: its client credentials take any
	// parameters.
	cfg := clientcredentials.Config{
		ClientID: req.Client.ID, ClientSecret: req.Client.Secret.Reveal(),
		TokenURL: req.URL, AuthStyle: style, EndpointParams: req.Params,
	}
	token, err := cfg.Token(context.WithValue(ctx, oauth2.HTTPClient, withoutRedirects(x)))
	ans := classify(x, &req, token, err)
	ans.SentAt = req.SentAt
	return ans
}

// withoutRedirects returns a client that takes nothing secret to where a response
// points.
func withoutRedirects(rt http.RoundTripper) *http.Client {
	return &http.Client{
		Transport:     rt,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}
