package tests

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/tests/oauthserver"
)

const failedEvent = "vault.connection.token_refresh.failed"

// The customer has revoked the grant: the operator gets one webhook, and callers learn that
// only a new authorisation helps.
func TestDeadRefreshTokenIsReportedOnce(t *testing.T) {
	inEveryStore(t, func(t *testing.T, d *deployment) {
		p := d.start(t)
		login := d.provider.Login(t, consumer, 2*oauthserver.DefaultLifetime)
		d.provider.Revoke(t, consumer)
		p.importTokens(t, acme, consumer, login)

		wantFailedEvent(t, d, d.webhooks.await(t, failedEvent))
		for range 3 {
			wantNeedsAuth(t, p.call(t, "/acme/contacts", consumer))
		}
		if conn := p.get(t, acme, consumer).connection(t); conn.Health != "needs_auth" || conn.State != "invalid" {
			t.Errorf("the connection is %s, %s; want invalid, needs_auth", conn.State, conn.Health)
		}
		p.stop(t) // delivers pending webhooks
		if got := d.webhooks.all(); len(got) != 1 {
			t.Errorf("got %d webhooks, want one", len(got))
		}
		if got := d.provider.TokenRequests(consumer); len(got) != 1 {
			t.Errorf("the dead refresh token was sent %d times, want once", len(got))
		}
	})
}

// After the import of a new grant the connection works again.
func TestNewGrantRevivesAConnection(t *testing.T) {
	inEveryStore(t, func(t *testing.T, d *deployment) {
		p := d.start(t)
		p.importTokens(t, acme, consumer, d.provider.Login(t, consumer, 2*oauthserver.DefaultLifetime))
		d.wantUnbroken(t, p, consumer, 1)

		dead := d.provider.Login(t, "dead", 2*oauthserver.DefaultLifetime)
		d.provider.Revoke(t, "dead")
		p.importTokens(t, acme, "dead", dead)
		d.webhooks.await(t, failedEvent)
		if got := p.importTokens(t, acme, "dead", d.provider.Login(t, "alive", 0)); got != "stored" {
			t.Errorf("the new grant was %s, want stored", got)
		}
		if got := p.call(t, "/acme/contacts", "dead"); got.status != http.StatusOK {
			t.Errorf("a call after the new grant = %v, want 200", got)
		}
		if conn := p.get(t, acme, "dead").connection(t); conn.State != "callable" || conn.Health != "ok" {
			t.Errorf("the connection is %s, %s; want callable, ok", conn.State, conn.Health)
		}
		d.wantUnbroken(t, p, consumer, 1) // the other customer is not affected
	})
}

// While the token endpoint is down, a call is answered with 503, not with a demand to authorise
// again. The recovery is reported.
func TestUnavailableTokenEndpointIsA503(t *testing.T) {
	inEveryStore(t, func(t *testing.T, d *deployment) {
		p := d.start(t)
		d.provider.OnToken(oauthserver.Fail(http.StatusServiceUnavailable, "text/plain", "down"))
		p.importTokens(t, acme, consumer, d.provider.Login(t, consumer, 2*oauthserver.DefaultLifetime))
		got := p.call(t, "/acme/contacts", consumer)
		got.wantError(t, http.StatusServiceUnavailable, "ServiceUnavailableError")
		if got.header.Get("Retry-After") == "" {
			t.Error("a 503 has no Retry-After")
		}
		d.webhooks.await(t, "vault.connection.token_refresh.pending")
		d.provider.OnToken(nil)
		d.webhooks.await(t, "vault.connection.token_refresh.recovered")
		d.wantUnbroken(t, p, consumer, 1)
		if got := d.webhooks.of(failedEvent); len(got) != 0 {
			t.Errorf("got %d webhooks %s, want none", len(got), failedEvent)
		}
	})
}

// wantNeedsAuth checks the response to a call of a connection that must be authorised again.
func wantNeedsAuth(t *testing.T, got answer) {
	t.Helper()
	body := got.wantError(t, http.StatusUnauthorized, "UnauthorizedError")
	detail, _ := body.Detail.(map[string]any)
	if detail["type"] != "refresh_token_connector_error" || detail["message"] == "" {
		t.Errorf("the detail is %v, want type refresh_token_connector_error and a message", body.Detail)
	}
	if message, _ := detail["message"].(string); !strings.Contains(message, "the grant may have been refreshed elsewhere since it was exported") {
		t.Errorf("the message is %q, want it to explain why a first refresh fails", message)
	}
	debug, _ := detail["debug"].(map[string]any)
	if debug["code"] != "invalid_grant" {
		t.Errorf("the detail's debug is %v, want code invalid_grant", debug)
	}
	// As in the example of the Apideck API, of a failure a moment ago: 30 s and 48 h.
	now := float64(time.Now().UnixMilli())
	for name, want := range map[string]time.Duration{"retry_after_ms": 30 * time.Second, "credentials_expire_at_ms": 48 * time.Hour} {
		at, _ := debug[name].(float64)
		if got := time.Duration(at-now) * time.Millisecond; got > want || got < want-waitTimeout {
			t.Errorf("%s is %v from now, want %v after the failure", name, got, want)
		}
	}
	if left, ok := debug["cooldown_remaining_ms"].(float64); !ok || left < 0 || left > 30_000 {
		t.Errorf("cooldown_remaining_ms is %v, want what is left of 30 s", debug["cooldown_remaining_ms"])
	}
}

// wantFailedEvent checks a webhook against the documentation of the Apideck API.
func wantFailedEvent(t *testing.T, d *deployment, got delivery) {
	t.Helper()
	if !got.isSigned(d.webhookSecret) {
		t.Errorf("the signature %q is not that of the body", got.header.Get("x-apideck-signature"))
	}
	wantCanonical(t, got.body)
	var body struct {
		Payload struct {
			EventID          string    `json:"event_id"`
			EventType        string    `json:"event_type"`
			EntityID         string    `json:"entity_id"`
			EntityType       string    `json:"entity_type"`
			ExecutionAttempt int       `json:"execution_attempt"`
			OccurredAt       time.Time `json:"occurred_at"`
			Entity           struct {
				ConsumerID string `json:"consumer_id"`
				UnifiedAPI string `json:"unified_api"`
				ServiceID  string `json:"service_id"`
				Health     string `json:"health"`
			} `json:"entity"`
		} `json:"payload"`
	}
	if err := json.Unmarshal(got.body, &body); err != nil {
		t.Fatal(err)
	}
	payload := body.Payload
	if payload.EventType != failedEvent || payload.EntityType != "Connection" || payload.ExecutionAttempt != 1 ||
		payload.EntityID != application+"+"+consumer || payload.OccurredAt.IsZero() {
		t.Errorf("the payload is %s", got.body)
	}
	if e := payload.Entity; e.ConsumerID != consumer || e.UnifiedAPI != "crm" || e.ServiceID != "acme" || e.Health != "needs_auth" {
		t.Errorf("the entity is %+v, want %s of %s, needs_auth", e, acme, consumer)
	}
	if id := got.header.Get("x-apideck-idempotency-key"); id == "" || id != payload.EventID {
		t.Errorf("the idempotency key is %q, the event's id %q; want the same", id, payload.EventID)
	}
}

// wantCanonical checks that a body does not change if it is parsed and encoded again with sorted
// keys, as some receivers do before they verify the signature.
func wantCanonical(t *testing.T, body []byte) {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	var value any
	if err := dec.Decode(&value); err != nil {
		t.Fatal(err)
	}
	var again strings.Builder
	enc := json.NewEncoder(&again) // sorts the keys
	enc.SetEscapeHTML(false)
	if err := enc.Encode(value); err != nil {
		t.Fatal(err)
	}
	if want := strings.TrimSuffix(again.String(), "\n"); want != string(body) {
		t.Errorf("the body is not canonical:\n%s\nwant\n%s", body, want)
	}
}

// If the token endpoint refuses the OAuth client, no connection is lost.
func TestWrongClientIsNoReasonToAuthoriseAgain(t *testing.T) {
	inEveryStore(t, func(t *testing.T, d *deployment) {
		right := d.clientSecret
		d.clientSecret = "wrong"
		p := d.start(t)
		p.importTokens(t, acme, consumer, d.provider.Login(t, consumer, 2*oauthserver.DefaultLifetime))
		d.awaitRefreshes(t, consumer, 1)
		if got := p.call(t, "/acme/contacts", consumer); got.status == http.StatusOK {
			t.Fatalf("a call = %v, want an error", got)
		}
		if conn := p.get(t, acme, consumer).connection(t); conn.State != "callable" || conn.Health == "needs_auth" {
			t.Errorf("the connection is %s, %s; want callable, and not needs_auth", conn.State, conn.Health)
		}
		d.clientSecret = right
		p.reload(t)
		eventually(t, "a call with the right client", func() error {
			got := p.call(t, "/acme/contacts", consumer)
			if got.status != http.StatusOK {
				return fmt.Errorf("the call = %v, want 200", got)
			}
			return nil
		})
		d.wantUnbroken(t, p, consumer, 1)
	})
}
