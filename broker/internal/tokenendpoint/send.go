package tokenendpoint

import (
	"context"
	"net/http"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// Send sends one token request, once, without following redirects. rt must never resend a
// request: it must use HTTP/1.1 and a new connection. ctx bounds the time.
func Send(ctx context.Context, rt http.RoundTripper, req Request) record.Answer {
	x := &exchange{base: rt, json: req.JSON}
	style := oauth2.AuthStyleInHeader
	if req.InParams {
		style = oauth2.AuthStyleInParams
	}
	// The client credentials flow of x/oauth2 takes any parameters, so it serves all grants.
	cfg := clientcredentials.Config{
		ClientID: req.Client.ID, ClientSecret: req.Client.Secret.Reveal(),
		TokenURL: req.URL, AuthStyle: style, EndpointParams: req.Params,
	}
	token, err := cfg.Token(context.WithValue(ctx, oauth2.HTTPClient, withoutRedirects(x)))
	ans := classify(x, &req, token, err)
	ans.SentAt = req.SentAt
	return ans
}

// withoutRedirects returns a client that follows no redirects, which could lead the secrets
// elsewhere.
func withoutRedirects(rt http.RoundTripper) *http.Client {
	return &http.Client{
		Transport:     rt,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}
