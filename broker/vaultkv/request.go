package vaultkv

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"

	"github.com/hashicorp/vault/api"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// maxResponse bounds a response, in bytes. Vault accepts smaller requests.
const maxResponse = 64 << 20

// A request goes to the secrets engine, or to Vault itself.
type request struct {
	method       string
	engine       string // "data", "metadata" or "destroy"; empty: path is not below the mount
	path         string
	query        url.Values
	body         []byte
	capabilities string // that the token's policy must grant, for error messages
	once         bool   // do must not repeat it: a compare-and-set
}

// fullPath returns the request's path in Vault.
func (s *Store) fullPath(r request) string {
	if r.engine == "" {
		return r.path
	}
	return s.mount + "/" + r.engine + "/" + s.prefix + "/" + r.path
}

// policyPath returns the path that a policy would name.
func (s *Store) policyPath(r request) string {
	if r.engine == "" {
		return r.path
	}
	return s.mount + "/" + r.engine + "/" + s.prefix + "/*"
}

// get sends a GET request and decodes the response into answer. A 404 leaves answer
// unchanged.
func (s *Store) get(ctx context.Context, r request, answer any) error {
	r.method = http.MethodGet
	body, err := s.do(ctx, r)
	switch {
	case isNotFound(err):
		return nil
	case err != nil:
		return err
	case json.Unmarshal(body, answer) != nil:
		return s.unreadable(r)
	}
	return nil
}

// do sends a request. If the response was lost or the server failed, it repeats the
// request, unless that is one to send only once.
func (s *Store) do(ctx context.Context, r request) ([]byte, error) {
	body, err := s.authorized(ctx, r)
	if shouldRepeat(err) && !r.once && ctx.Err() == nil {
		body, err = s.authorized(ctx, r)
	}
	return body, err
}

// authorized sends a request. If Vault rejects the token, it tries once more with a new
// one, if there is one.
func (s *Store) authorized(ctx context.Context, r request) ([]byte, error) {
	token, err := s.token(ctx, secret.String{})
	if err != nil {
		return nil, err
	}
	body, err := s.send(ctx, r, token)
	if !isForbidden(err) {
		return body, err
	}
	renewed, tokenErr := s.token(ctx, token)
	if tokenErr != nil {
		return nil, fmt.Errorf("%w; and %w", err, tokenErr)
	}
	if renewed.Equal(token) {
		return nil, err
	}
	return s.send(ctx, r, renewed)
}

// send makes exactly one HTTP request. For a 404 it can return both a body and an error.
func (s *Store) send(ctx context.Context, r request, token secret.String) ([]byte, error) {
	timed, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	if limiter := s.client.Limiter(); limiter != nil && limiter.Wait(timed) != nil {
		return nil, s.noAnswer(ctx, r, context.DeadlineExceeded)
	}
	resp, err := s.transport.RoundTrip(s.newRequest(r, token).WithContext(timed))
	if err != nil {
		return nil, s.noAnswer(ctx, r, err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, readErr := readAll(resp)
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		failure := s.refused(r, resp.StatusCode, body)
		if failure.status != http.StatusNotFound {
			return nil, failure
		}
		err = failure
	}
	if readErr != nil {
		return nil, s.noAnswer(ctx, r, readErr)
	}
	return body, err
}

// newRequest returns the HTTP request that vault/api would send: to its address, with its headers.
// It is not sent with vault/api, which would send it again, so that a write could conflict with
// itself, and would follow redirects, which takes the token to another server.
func (s *Store) newRequest(r request, token secret.String) *http.Request {
	from := s.client.NewRequest(r.method, "/v1/"+s.fullPath(r))
	from.URL.RawQuery = r.query.Encode()
	req := &http.Request{Method: r.method, URL: from.URL, Host: from.Host, Header: from.Headers}
	if token := token.Reveal(); token != "" {
		req.Header.Set(api.AuthHeaderName, token)
	}
	if len(r.body) > 0 {
		req.ContentLength = int64(len(r.body))
		// The transport needs it for a connection that turns out to be closed before anything was
		// written.
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(r.body)), nil }
		req.Body, _ = req.GetBody()
	}
	return req
}

// readAll reads the body of a response.
func readAll(resp *http.Response) ([]byte, error) {
	const usual = 16 << 10
	var b bytes.Buffer
	if 0 < resp.ContentLength && resp.ContentLength <= usual {
		b.Grow(int(resp.ContentLength) + bytes.MinRead)
	}
	_, err := b.ReadFrom(io.LimitReader(resp.Body, maxResponse))
	return b.Bytes(), err
}

// token returns the known token, or asks for a new one if the known one was rejected.
func (s *Store) token(ctx context.Context, rejected secret.String) (secret.String, error) {
	if token, ok := s.tokens.known(rejected); ok {
		return token, nil
	}
	timed, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	token, err := s.tokens.source(timed)
	if err != nil {
		return secret.String{}, fmt.Errorf("%w: getting a token for Vault: %w", record.ErrStoreUnavailable, err)
	}
	token = secret.New(strings.TrimSpace(token.Reveal()))
	if strings.ContainsFunc(token.Reveal(), func(r rune) bool { return r <= ' ' || r > '~' }) {
		return secret.String{}, fmt.Errorf("%w: the token for Vault contains characters that no token has: "+
			"check the file or variable that it comes from", record.ErrStoreUnavailable)
	}
	s.tokens.set(token)
	return token, nil
}

// tokens holds the token that source returned last.
type tokens struct {
	source func(ctx context.Context) (secret.String, error)

	mu    sync.Mutex
	token secret.String // guarded by mu
}

func (t *tokens) known(rejected secret.String) (secret.String, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.token, !t.token.IsZero() && !t.token.Equal(rejected)
}

func (t *tokens) set(token secret.String) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.token = token
}

// environmentToken may return an empty token: a Vault Agent adds its own.
func environmentToken(context.Context) (secret.String, error) {
	return secret.New(os.Getenv(api.EnvVaultToken)), nil
}
