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

// A Config says who is told of events. It is not changed after it was handed over.
type Config struct {
	Endpoints []Endpoint

	// Logger takes what becomes of deliveries. Default: nobody.
	Logger *slog.Logger
}

// An Endpoint is a URL that events are posted to.
type Endpoint struct {
	// URL is where events are posted: https, or http with AllowPrivate. Only its
	// scheme and host are ever logged, since the rest of a hook's URL can be a secret.
	URL string

	// Secret keys the signature.
	Secret secret.String

	// Events are the events that are sent: their types, or beginnings of them followed
	// by "*". Default: all.
	Events []string

	// AllowPrivate: the endpoint may be on a loopback or private address and speak
	// plain HTTP.
	AllowPrivate bool
}

// Validate reports what is wrong with the endpoint. The error names the words of
// the configuration and never the URL's path.
func (e *Endpoint) Validate() error {
	u, err := url.Parse(e.URL)
	if err != nil || u.Host == "" || u.Opaque != "" {
		// Not wrapped: the error has the URL in it.
		return errors.New("webhook: the URL is not readable: write https://host/path")
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
			return fmt.Errorf("webhook %s: events: %q is not an event type, nor the beginning of one followed by *", name, pattern)
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
			errs = append(errs, fmt.Errorf("webhook %s: the URL is there twice: name all events in one block", displayName(e.URL)))
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

// Unmatched returns the patterns that no event matches: a misspelt one would else be an
// alert that never comes.
func (e *Endpoint) Unmatched() []string {
	return slices.DeleteFunc(slices.Clone(e.Events), func(pattern string) bool {
		return slices.ContainsFunc(record.EventTypes(), func(t record.EventType) bool { return matches(pattern, t) })
	})
}

// displayName returns the part of a URL that may be seen.
func displayName(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return ""
	}
	return u.Scheme + "://" + u.Host
}
