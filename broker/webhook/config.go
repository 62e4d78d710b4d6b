package webhook

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// A Config lists the endpoints that receive events. It must not change after Configure.
type Config struct {
	Endpoints []Endpoint

	// Logger receives the outcome of deliveries. If nil, it is discarded.
	Logger *slog.Logger
}

// An Endpoint is a URL that events are posted to.
type Endpoint struct {
	// URL is https, or http if AllowPrivate is set. Only its scheme and host are ever
	// logged: the rest of a webhook's URL can be a secret.
	URL string

	// Secret is the key of the signature.
	Secret secret.String

	// Events selects the events to send: types, or prefixes of types followed by "*".
	// Default: all.
	Events []string

	// AllowPrivate allows loopback and private addresses, and plain HTTP.
	AllowPrivate bool
}

// Validate returns an error if the endpoint cannot be used. The error uses the words of the
// configuration and never contains the URL's path.
func (e *Endpoint) Validate() error {
	u, err := url.Parse(e.URL)
	if err != nil || u.Host == "" || u.Opaque != "" {
		// Not wrapped: the error contains the URL.
		return errors.New("webhook: the URL is not valid: write https://host/path")
	}
	name := displayName(e.URL)
	if u.Scheme != "https" && (u.Scheme != "http" || !e.AllowPrivate) {
		return fmt.Errorf("webhook %s: the URL must begin with https://, or set allow_private", name)
	}
	if e.Secret.IsZero() {
		return fmt.Errorf("webhook %s: secret is required: receivers need it to tell events from forgeries", name)
	}
	for _, pattern := range e.Events {
		if prefix := strings.TrimSuffix(pattern, "*"); pattern == "" || strings.ContainsAny(prefix, "* \t") {
			return fmt.Errorf("webhook %s: events: %q is neither an event type nor the beginning of one followed by *", name, pattern)
		}
	}
	return nil
}

func (c *Config) validate() error {
	var errs []error
	seen := make(map[string]bool)
	for i := range c.Endpoints {
		e := &c.Endpoints[i]
		if err := e.Validate(); err != nil {
			errs = append(errs, err)
		} else if seen[e.URL] {
			errs = append(errs, fmt.Errorf("webhook %s: the URL is configured twice: list all its events in one block", displayName(e.URL)))
		}
		seen[e.URL] = true
	}
	return errors.Join(errs...)
}

func (c *Config) logger() *slog.Logger {
	if c.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return c.Logger
}

func (e *Endpoint) wants(t record.EventType) bool {
	return len(e.Events) == 0 || slices.ContainsFunc(e.Events, func(pattern string) bool { return matches(pattern, t) })
}

func matches(pattern string, t record.EventType) bool {
	prefix, wildcard := strings.CutSuffix(pattern, "*")
	return string(t) == pattern || wildcard && strings.HasPrefix(string(t), prefix)
}

// Unmatched returns the patterns that match no event type. A misspelt pattern would
// otherwise mean an alert that never arrives.
func (e *Endpoint) Unmatched() []string {
	return slices.DeleteFunc(slices.Clone(e.Events), func(pattern string) bool {
		return slices.ContainsFunc(record.EventTypes(), func(t record.EventType) bool { return matches(pattern, t) })
	})
}

// displayName returns the part of a URL that is safe to log.
func displayName(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return ""
	}
	return u.Scheme + "://" + u.Host
}
