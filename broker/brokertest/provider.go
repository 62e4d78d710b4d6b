package brokertest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// A Provider is a token endpoint in memory (RFC 6749 section 3.2). It is used as the
// [http.RoundTripper] of a broker under test. Unless KeepRefresh is set, it rotates refresh
// tokens, and revokes the grant when a spent one is sent again (RFC 9700 section 4.14.2).
type Provider struct {
	ClientID     string
	ClientSecret string
	Lifetime     time.Duration // of access tokens; 0: responses have no expires_in
	KeepRefresh  bool          // do not rotate refresh tokens

	Clients   map[string]string // secrets of further clients, by client id
	Passwords map[string]string // for the password grant, by user name

	// Respond, if set, is called before each token request, with its number from 1 on. If it
	// returns a response or an error, the client gets that, and no refresh token is spent.
	Respond func(n int, form url.Values) (*http.Response, error)

	// Deliver, if set, is called after a token was issued. If it returns an error, the client
	// gets that instead of the response: the refresh token is spent and the new one lost.
	Deliver func(n int) error

	mu       sync.Mutex
	requests []url.Values      // guarded by mu
	grants   map[string]*grant // guarded by mu; by refresh token, spent ones included
	issued   int               // guarded by mu; access tokens
}

type grant struct {
	current string // the valid refresh token
	revoked bool
}

// NewProvider returns a provider with a client "client", whose secret is "client-secret".
func NewProvider() *Provider {
	return &Provider{ClientID: "client", ClientSecret: "client-secret", Lifetime: time.Hour, grants: make(map[string]*grant)}
}

// Grant creates a grant with the given refresh token, as if a customer had authorised it.
func (p *Provider) Grant(refreshToken string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.grants[refreshToken] = &grant{current: refreshToken}
}

// Revoked reports whether the grant of refreshToken was revoked.
func (p *Provider) Revoked(refreshToken string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	g := p.grants[refreshToken]
	return g != nil && g.revoked
}

// Requests returns the forms of all token requests so far.
func (p *Provider) Requests() []url.Values {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.requests)
}

// RoundTrip implements [http.RoundTripper].
func (p *Provider) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := req.Context().Err(); err != nil {
		return nil, err
	}
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	form, err := parseRequest(req, body)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	p.requests = append(p.requests, form)
	n := len(p.requests)
	p.mu.Unlock()
	if p.Respond != nil {
		if resp, err := p.Respond(n, form); resp != nil || err != nil {
			return resp, err
		}
	}
	id, secret, ok := req.BasicAuth()
	if !ok {
		id, secret = form.Get("client_id"), form.Get("client_secret")
	}
	want, known := p.Clients[id]
	if id == p.ClientID {
		want, known = p.ClientSecret, true
	}
	if !known || secret != want {
		return Response(http.StatusUnauthorized, map[string]any{"error": "invalid_client"}), nil
	}
	resp := p.grantToken(form)
	if p.Deliver != nil && resp.StatusCode == http.StatusOK {
		if err := p.Deliver(n); err != nil {
			return nil, err
		}
	}
	return resp, nil
}

// parseRequest parses a token request with a form or, as some services require, JSON.
func parseRequest(req *http.Request, body []byte) (url.Values, error) {
	if req.Header.Get("Content-Type") != "application/json" {
		return url.ParseQuery(string(body))
	}
	var members map[string]string
	if err := json.Unmarshal(body, &members); err != nil {
		return nil, err
	}
	form := make(url.Values)
	for name, value := range members {
		form.Set(name, value)
	}
	return form, nil
}

func (p *Provider) grantToken(form url.Values) *http.Response {
	p.mu.Lock()
	defer p.mu.Unlock()
	answer := map[string]any{"token_type": "bearer"}
	switch form.Get("grant_type") {
	case "password":
		if want, known := p.Passwords[form.Get("username")]; !known || form.Get("password") != want {
			return Response(http.StatusBadRequest, map[string]any{"error": "invalid_grant"})
		}
		if !p.KeepRefresh {
			token := fmt.Sprintf("refresh-%d-%s", p.issued+1, RefreshCanary)
			p.grants[token] = &grant{current: token}
			answer["refresh_token"] = token
		}
	case "refresh_token":
		token := form.Get("refresh_token")
		g := p.grants[token]
		if g != nil && token != g.current {
			g.revoked = true // a spent token was sent again
		}
		if g == nil || g.revoked {
			return Response(http.StatusBadRequest, map[string]any{"error": "invalid_grant"})
		}
		if !p.KeepRefresh {
			g.current = fmt.Sprintf("refresh-%d-%s", p.issued+1, RefreshCanary)
			p.grants[g.current] = g
			answer["refresh_token"] = g.current
		}
	}
	p.issued++
	answer["access_token"] = fmt.Sprintf("access-%d-%s", p.issued, AccessCanary)
	if p.Lifetime > 0 {
		answer["expires_in"] = int(p.Lifetime.Seconds())
	}
	return Response(http.StatusOK, answer)
}

// Response returns an HTTP response with the JSON of body, or with body itself if it is a
// string.
func Response(status int, body any) *http.Response {
	text, isText := body.(string)
	header := http.Header{"Content-Type": {"text/plain"}}
	if !isText {
		encoded, err := json.Marshal(body)
		if err != nil {
			panic(err)
		}
		text = string(encoded)
		header.Set("Content-Type", "application/json")
	}
	return &http.Response{
		StatusCode: status, Status: fmt.Sprintf("%d %s", status, http.StatusText(status)), Header: header,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, ContentLength: int64(len(text)),
		Body: io.NopCloser(strings.NewReader(text)),
	}
}

var _ http.RoundTripper = (*Provider)(nil)
