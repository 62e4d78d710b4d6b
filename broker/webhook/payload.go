package webhook

import (
	"maps"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// Names from the webhooks of the Apideck API, which receivers rely on.
const (
	headerEventType      = "x-apideck-event-type"
	headerSignature      = "x-apideck-signature"
	headerIdempotencyKey = "x-apideck-idempotency-key"

	// sender is the payload.service_id of every vault event. The service of the connection
	// is in payload.entity.service_id.
	sender     = "apideck-vault"
	entityType = "Connection"
)

// body returns the body of an attempt, counted from 1: a ConnectionEvent of the Apideck API
// in its envelope, in canonical form.
func body(event *record.Event, attempt int) ([]byte, error) {
	key := event.Connection.Key
	return appendCanonical(nil, map[string]any{"payload": map[string]any{
		"event_id":          event.ID,
		"event_type":        string(event.Type),
		"service_id":        sender,
		"entity_id":         key.Application + "+" + key.Consumer,
		"entity_type":       entityType,
		"entity":            entity(&event.Connection),
		"execution_attempt": float64(attempt),
		"occurred_at":       timestamp(event.OccurredAt),
	}})
}

// entity returns the connection as a ConsumerConnection of the Apideck API. It contains only
// the members listed here.
func entity(c *record.Connection) map[string]any {
	name := c.Connector.Name
	if name == "" {
		name = c.Key.Connector.ServiceID
	}
	e := map[string]any{
		"id":          c.Key.Application + "+" + c.Key.Consumer,
		"consumer_id": c.Key.Consumer,
		"unified_api": c.Key.Connector.UnifiedAPI,
		"service_id":  c.Key.Connector.ServiceID,
		"name":        name,
		"auth_type":   string(c.Connector.AuthType),
		"enabled":     c.Enabled,
		"settings":    settings(c),
		"metadata":    object(c.Metadata),
		"state":       string(c.State),
		"health":      string(c.Health),
		"created_at":  timestamp(c.CreatedAt),
		"updated_at":  timestamp(c.UpdatedAt),
	}
	if c.Connector.Website != "" {
		e["website"] = c.Connector.Website
	}
	// The Apideck API documents these two as "only present when" they apply.
	if !c.CredentialsExpireAt.IsZero() {
		e["credentials_expire_at"] = timestamp(c.CredentialsExpireAt)
	}
	if !c.LastRefreshFailedAt.IsZero() {
		e["last_refresh_failed_at"] = timestamp(c.LastRefreshFailedAt)
	}
	return e
}

// settings returns the settings of a [record.Connection], where sensitive ones are masked
// already. Here they leave the process, so they are masked once more.
func settings(c *record.Connection) any {
	masked := maps.Clone(c.Settings)
	for name := range masked {
		if c.Connector.IsSensitive(name) {
			masked[name] = record.Mask
		}
	}
	return object(masked)
}

func object(o map[string]any) any {
	if o == nil {
		return nil
	}
	return o
}

// timestamp formats a time as Date.toISOString does: ISO 8601 in UTC with milliseconds. The
// zero time becomes null.
func timestamp(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UTC().Format("2006-01-02T15:04:05.000Z")
}
