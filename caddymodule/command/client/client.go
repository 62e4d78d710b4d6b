// Package client talks to a running broker over its HTTP API, for subcommands.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// Limits of a response, in bytes.
const (
	maxResponse = 64 << 20
	maxError    = 64 << 10
)

// attemptTimeout is the timeout of one attempt. It is longer than the broker's own.
const attemptTimeout = time.Minute

// A Client sends requests to one broker as one application. It is safe for concurrent use.
type Client struct {
	base    *url.URL
	app     string
	key     secret.String
	header  http.Header // of every request
	http    *http.Client
	reached *atomic.Bool // the broker has answered at least once
}

// New returns a client of the broker at the URL to, such as https://broker.internal, which acts
// as the application app with that API key. Over plain HTTP it sends the key only to a loopback
// address, unless allowHTTP is set.
func New(to, app string, key secret.String, allowHTTP bool) (*Client, error) {
	base, err := parseAddress(to, allowHTTP)
	if err != nil {
		return nil, err
	}
	if app == "" {
		return nil, errors.New("--app is missing: name the application whose connections these are")
	}
	if key.IsZero() {
		return nil, fmt.Errorf("the API key is missing: set %s, or name a file with --key-file", KeyVariable)
	}
	if slices.ContainsFunc([]byte(key.Reveal()+app), func(c byte) bool { return c < ' ' || c > '~' }) {
		return nil, errors.New("the API key or the name of the application has a character that no header can carry")
	}
	return &Client{
		base: base, app: app, key: key, header: http.Header{}, reached: new(atomic.Bool),
		http: &http.Client{
			Timeout:   attemptTimeout,
			Transport: newTransport(),
			// The key must not follow a redirect to another host.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// newTransport returns a transport for many requests to one host at the same time.
func newTransport() *http.Transport {
	return &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		ForceAttemptHTTP2:   true,
		MaxIdleConnsPerHost: 64,
		IdleConnTimeout:     90 * time.Second,
		TLSHandshakeTimeout: 10 * time.Second,
	}
}

// parseAddress parses the broker's URL, which may have a path.
func parseAddress(to string, allowHTTP bool) (*url.URL, error) {
	u, err := url.Parse(to)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, errors.New("--to is not the URL of a broker, such as https://broker.example.com") // it may contain a password
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("--to may have neither a user name, nor a query, nor a fragment")
	}
	if u.Scheme == "http" && !allowHTTP && !isLoopback(u.Hostname()) {
		return nil, fmt.Errorf("%s is not encrypted, so the API key and the tokens would be readable on the way: use https, or --insecure-http if the network is trusted", u)
	}
	u.Path, u.RawPath = strings.TrimSuffix(u.Path, "/"), ""
	return u, nil
}

func isLoopback(host string) bool {
	if host = strings.TrimSuffix(strings.ToLower(host), "."); host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}

// With returns a client that also sends this header.
func (c *Client) With(name, value string) *Client {
	with := *c
	with.header = c.header.Clone()
	with.header.Set(name, value)
	return &with
}

// Do sends body, encoded as JSON unless it is nil, to a path of the API, such as
// /vault/connections, which may have a query. It decodes the response into into, unless that is
// nil. Requests that may succeed later are repeated, so they must be ones that can be repeated.
// Its error is an [*Error] if the broker refused the request.
func (c *Client) Do(ctx context.Context, method, path string, body, into any) error {
	var encoded []byte
	if raw, ok := body.(json.RawMessage); ok {
		encoded = raw // encoding it would check and copy all of it
	} else if body != nil {
		var err error
		if encoded, err = json.Marshal(body); err != nil {
			return fmt.Errorf("encoding a request: %w", err)
		}
	}
	for try := 1; ; try++ {
		wait, err := c.attempt(ctx, method, path, encoded, into)
		if err == nil || wait < 0 || try == maxTries {
			return err
		}
		if ended := Sleep(ctx, max(wait, backoff(try))); ended != nil {
			return errors.Join(ended, err)
		}
	}
}

// Sleep returns nil after d, or ctx's error as soon as ctx is done.
func Sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Try is [Client.Do] without a body and without repetitions.
func (c *Client) Try(ctx context.Context, method, path string) error {
	_, err := c.attempt(ctx, method, path, nil, nil)
	return err
}

// attempt sends a request once. After an error it returns how long to wait at least before the
// next attempt, a negative duration if there must be none.
func (c *Client) attempt(ctx context.Context, method, path string, body []byte, into any) (time.Duration, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base.String()+path, bytes.NewReader(body))
	if err != nil {
		return never, err
	}
	req.Header = c.header.Clone()
	req.Header.Set("Authorization", "Bearer "+c.key.Reveal())
	req.Header.Set("X-Apideck-App-Id", c.app)
	req.Header.Set("User-Agent", "token-broker")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil || !c.reached.Load() {
			return never, err // a wrong address is reported at once
		}
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	c.reached.Store(true)
	if resp.StatusCode/100 != 2 {
		return refusal(resp)
	}
	if into == nil {
		return 0, nil
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxResponse)).Decode(into); err != nil {
		if ctx.Err() != nil {
			return never, ctx.Err()
		}
		return 0, fmt.Errorf("%s %s: the response of the broker is not readable", method, path) // it may contain a secret
	}
	return 0, nil
}
