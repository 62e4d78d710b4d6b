package tokenendpoint

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/guard"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// maxRevocation bounds how much of a revocation endpoint's response is read, in bytes.
const maxRevocation = 64 << 10

// A Revocation is one revocation request (RFC 7009 section 2.1).
type Revocation struct {
	URL    string
	Client record.Client
	Style  connector.AuthStyle // as in a [Request]
	Token  secret.String
	Hint   string // token_type_hint
}

// Kinds of failed revocations.
var (
	ErrRevokeLater   = errors.New("the revocation endpoint is unavailable")
	ErrRevokeRefused = errors.New("the revocation endpoint refused")
	ErrRevokeURL     = errors.New("the revocation_url is not a URL")
	ErrRevokeTarget  = errors.New("the revocation_url needs a setting that the connection does not have")
)

// A RevocationError says why a revocation failed. It contains only the code of the endpoint's
// response.
type RevocationError struct {
	Status int    // 0: no response
	Code   string // RFC 7009 section 2.2.1, or empty
	Kind   error  // one of the kinds above, or [guard.ErrAddressNotAllowed]
}

// Error implements error.
func (e *RevocationError) Error() string {
	msg := e.Kind.Error()
	if e.Status != 0 {
		msg += " (" + record.CodeHTTPStatus + strconv.Itoa(e.Status) + ")"
	}
	if e.Code != "" {
		msg += ": " + e.Code
	}
	return msg
}

// Unwrap returns the kind of failure.
func (e *RevocationError) Unwrap() error { return e.Kind }

// Revoke sends one revocation request. Its error is a [*RevocationError].
func Revoke(ctx context.Context, rt http.RoundTripper, rv Revocation) error {
	req, err := rv.request(ctx)
	if err != nil {
		return &RevocationError{Kind: ErrRevokeURL} // err could quote the URL
	}
	resp, err := rt.RoundTrip(req) // which follows no redirects
	switch {
	case errors.Is(err, guard.ErrAddressNotAllowed):
		return &RevocationError{Kind: guard.ErrAddressNotAllowed}
	case err != nil:
		return &RevocationError{Kind: ErrRevokeLater} // err's text can contain secrets
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxRevocation))
	if resp.StatusCode/100 == 2 {
		return nil
	}
	failed := &RevocationError{Status: resp.StatusCode, Code: rv.errorCode(body), Kind: ErrRevokeRefused}
	if resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode >= 500 {
		failed.Kind = ErrRevokeLater
	}
	return failed
}

// request returns the request, with the client authenticated as at the token endpoint.
func (rv *Revocation) request(ctx context.Context) (*http.Request, error) {
	form := url.Values{"token": {rv.Token.Reveal()}, "token_type_hint": {rv.Hint}}
	header := make(http.Header)
	authenticate(rv.Style, rv.Client, form, header)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, rv.URL, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	req.Header = header
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", userAgent)
	return req, nil
}

// errorCode returns the code in the body of an error response, as far as it is safe to show.
func (rv *Revocation) errorCode(body []byte) string {
	var answer struct {
		Error string `json:"error"`
	}
	if !bytes.HasPrefix(bytes.TrimSpace(body), []byte("{")) || json.Unmarshal(body, &answer) != nil || answer.Error == "" {
		return ""
	}
	return showable(answer.Error, []string{rv.Token.Reveal(), rv.Client.Secret.Reveal()})
}
