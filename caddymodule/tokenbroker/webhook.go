package tokenbroker

import (
	"fmt"
	"log/slog"
	"slices"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/webhook"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/argument"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/placeholder"
)

// WebhookConfig is an endpoint that events are posted to.
type WebhookConfig struct {
	// The endpoint, an https URL. Supports placeholders.
	URL string `json:"url"`

	// The secret that deliveries are signed with, as a placeholder.
	Secret string `json:"secret,omitempty"`

	// The events to post: names, or prefixes followed by `*`. Default: all.
	Events []string `json:"events,omitempty"`

	// Allow a loopback or private address, and plain HTTP.
	AllowPrivate bool `json:"allow_private,omitempty"`
}

func (a *App) provisionWebhooks() error {
	for i, w := range a.Webhooks {
		field := fmt.Sprintf("webhook %d", i+1)
		url, err := placeholder.Resolve(field+": url", w.URL)
		if err != nil {
			return err
		}
		endpoint := webhook.Endpoint{URL: url, Events: w.Events, AllowPrivate: w.AllowPrivate || a.AllowPrivateHosts}
		if w.Secret != "" {
			if endpoint.Secret, err = placeholder.Secret(a.logger, field+": secret", w.Secret); err != nil {
				return err
			}
		}
		if err := endpoint.Validate(); err != nil {
			return err
		}
		if slices.ContainsFunc(a.endpoints, func(other webhook.Endpoint) bool { return other.URL == url }) {
			return fmt.Errorf("%s: the URL is already used by another webhook; list all its events in one block", field)
		}
		for _, pattern := range endpoint.Unmatched() {
			a.logger.LogAttrs(a.ctx, slog.LevelWarn, "webhook subscribes to events that the token broker does not send",
				slog.String("events", pattern), slog.Any("known", record.EventTypes()))
		}
		a.endpoints = append(a.endpoints, endpoint)
	}
	return nil
}

// unmarshalWebhook parses a webhook. Syntax:
//
//	webhook <url> {
//		secret <placeholder>
//		events <pattern...>
//		allow_private
//	}
func (a *App) unmarshalWebhook(d *caddyfile.Dispenser) error {
	var url string
	if err := argument.String(d, &url); err != nil {
		return err
	}
	i := slices.IndexFunc(a.Webhooks, func(w *WebhookConfig) bool { return w.URL == url })
	if i < 0 {
		i = len(a.Webhooks)
		a.Webhooks = append(a.Webhooks, &WebhookConfig{URL: url})
	}
	w := a.Webhooks[i]
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		var err error
		switch word := d.Val(); word {
		case "secret":
			err = argument.String(d, &w.Secret)
		case "events":
			err = w.unmarshalEvents(d)
		case "allow_private":
			err = argument.Flag(d, &w.AllowPrivate)
		default:
			err = d.Errf("unrecognized subdirective of webhook: %s", word)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *WebhookConfig) unmarshalEvents(d *caddyfile.Dispenser) error {
	patterns := d.RemainingArgs()
	if len(patterns) == 0 {
		return d.ArgErr()
	}
	for _, pattern := range patterns {
		if slices.Contains(w.Events, pattern) {
			return d.Errf("events %s is already set", pattern)
		}
		w.Events = append(w.Events, pattern)
	}
	return nil
}
