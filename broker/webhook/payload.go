package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// The names that receivers of the Vault API's webhooks know.
const (
	headerEventType      = "x-apideck-event-type"
	headerSignature      = "x-apideck-signature"
	headerIdempotencyKey = "x-apideck-idempotency-key"

	// sender is payload.service_id of every vault event. The connection's own service
	// is payload.entity.service_id.
	sender     = "apideck-vault"
	entityType = "Connection"
)

// body returns what is sent for an attempt, the first of which is 1: a
// ConnectionEvent of the Vault API in its envelope, in canonical form.
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

// entity returns the connection as a ConsumerConnection of the Vault API. It has
// nothing in it but what is named here.
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
	// "Only present when" there is one, says the Vault API.
	if !c.CredentialsExpireAt.IsZero() {
		e["credentials_expire_at"] = timestamp(c.CredentialsExpireAt)
	}
	if !c.LastRefreshFailedAt.IsZero() {
		e["last_refresh_failed_at"] = timestamp(c.LastRefreshFailedAt)
	}
	return e
}

// settings returns the settings as they are in a [record.Connection], masked. This
// is the place where they leave the house, so whatever sounds like a secret is
// masked here once more.
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

// timestamp is ISO 8601 in UTC with milliseconds, as Date.toISOString has it; null
// for no time.
func timestamp(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UTC().Format("2006-01-02T15:04:05.000Z")
}

// signature is the hex HMAC-SHA256 of the body under the endpoint's secret.
func signature(key secret.String, body []byte) string {
	mac := hmac.New(sha256.New, []byte(key.Reveal()))
	mac.Write(body)
	return hex.EncodeToString(mac.Sum(nil))
}
