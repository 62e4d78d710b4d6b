package vaultkv

import (
	"context"
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

// maxAnswer is more than Vault takes in a request, in bytes.
const maxAnswer = 64 << 20

// A request is one to the secrets engine.
type request struct {
	method       string
	engine       string // "data", "metadata", "destroy"; empty: path is not one of the engine
	path         string
	query        url.Values
	body         []byte
	capabilities string // what the token's policy must allow there
	once         bool   // not to be repeated without thought: a compare-and-set
}

// fullPath is the request's path in Vault.
func (s *Store) fullPath(r request) string {
	if r.engine == "" {
		return r.path
	}
	return s.mount + "/" + r.engine + "/" + s.prefix + "/" + r.path
}

// policyPath is the path that a policy would name.
func (s *Store) policyPath(r request) string {
	if r.engine == "" {
		return r.path
	}
	return s.mount + "/" + r.engine + "/" + s.prefix + "/*"
}

// do sends a request. A request that can be repeated is, once, if its answer was lost
// or the server failed.
func (s *Store) do(ctx context.Context, r request) ([]byte, error) {
	body, err := s.authorized(ctx, r)
	if shouldRepeat(err) && !r.once && ctx.Err() == nil {
		body, err = s.authorized(ctx, r)
	}
	return body, err
}

// authorized sends a request, and once more with a new token if there is one.
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

// send makes exactly one HTTP request. With a 404 it can return a body and an error.
func (s *Store) send(ctx context.Context, r request, token secret.String) ([]byte, error) {
	timed, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	logical := s.client.WithRequestCallbacks(func(r *api.Request) { r.ClientToken = token.Reveal() }).Logical()
	var resp *api.Response
	var err error
	switch r.method {
	case http.MethodPut:
		resp, err = logical.WriteRawWithContext(timed, s.fullPath(r), r.body)
	case http.MethodDelete:
		resp, err = logical.DeleteRawWithContext(timed, s.fullPath(r))
	default:
		resp, err = logical.ReadRawWithDataWithContext(timed, s.fullPath(r), r.query)
	}
	if resp == nil {
		return nil, s.noAnswer(ctx, r, err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		failure := s.refused(r, resp.StatusCode, err)
		if failure.status != http.StatusNotFound {
			return nil, failure
		}
		err = failure
	}
	body, readErr := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if readErr != nil {
		return nil, s.noAnswer(ctx, r, readErr)
	}
	return body, err
}

// token returns the token to use, a newly asked for one if the one that is known is
// rejected.
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
		return secret.String{}, fmt.Errorf("%w: what should be a token for Vault has characters that no token has: "+
			"check the file or variable that it comes from", record.ErrStoreUnavailable)
	}
	s.tokens.set(token)
	return token, nil
}

// tokens keeps the token that was last asked for.
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

// environmentToken may return none: a Vault Agent logs in by itself.
func environmentToken(context.Context) (secret.String, error) {
	return secret.New(os.Getenv(api.EnvVaultToken)), nil
}
