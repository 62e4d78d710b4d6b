package broker_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

func TestTokenResponseIsImportedAsItCame(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		credentials string
		lifetime    time.Duration // of the access token from issued_at on; 0: unknown
		refresh     time.Duration // likewise of the refresh token
	}{
		"RFC 6749":           {`"token_type":"bearer","scope":"a b","expires_in":3600,"issued_at":"1999-12-31T23:59:00Z"`, time.Hour, 0},
		"OpenID":             {`"token_type":"Bearer","id_token":"x.y.z","expires_in":3600,"refresh_expires_in":1800,"not-before-policy":0,"issued_at":"1999-12-31T23:59:00Z"`, time.Hour, 30 * time.Minute},
		"Intuit":             {`"x_refresh_token_expires_in":8726400,"expires_in":3600,"issued_at":"1999-12-31T23:59:00Z"`, time.Hour, 101 * 24 * time.Hour},
		"Salesforce":         {`"token_type":"Bearer","instance_url":"https://x.test","id":"https://x.test/id","signature":"s=","issued_at":"946684740000"`, 0, 0},
		"text and fractions": {`"token_type":"bearer","expires_in":"3600.5","refresh_token_expires_in":"soon","issued_at":946684740`, time.Hour, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			virtually(t, func(t *testing.T, h *harness) {
				h.configureConnector(acme, func(c *record.Connector) { c.TokenURL = "https://{x}.acme.test/" }) // nothing is refreshed
				h.mustImportBody(h.key, `{"credentials":{"access_token":" a1\r\n","refresh_token":"r1 ",`+test.credentials+`}}`)
				c := h.record(h.key).Credentials
				if c.AccessToken.Reveal() != "a1" || c.RefreshToken.Reveal() != "r1" {
					t.Error("the tokens are not stored, or have blanks around them")
				}
				if got := lasts(c.Expiry, c.IssuedAt); got != test.lifetime || c.Lifetime != test.lifetime {
					t.Errorf("got a lifetime of %v, want %v", got, test.lifetime)
				}
				if got := lasts(c.RefreshExpiry, c.IssuedAt); got != test.refresh {
					t.Errorf("got a lifetime of %v for the refresh token, want %v", got, test.refresh)
				}
			})
		})
	}
}

// lasts returns the time from issue to expiry, 0 if the latter is unknown.
func lasts(expiry, issuedAt time.Time) time.Duration {
	if expiry.IsZero() {
		return 0
	}
	return expiry.Sub(issuedAt)
}

func TestRefreshTokenAloneIsRedeemedBeforeTheFirstCall(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.provider.Grant("r1")
		release := h.holdAnswers("r1")
		h.mustImportBody(h.key, `{"credentials":{"refresh_token":"r1","expires_at":"2030-01-01T00:00:00Z"}}`)
		got := make(chan string)
		go func() { got <- h.token(h.key) }()
		synctest.Wait()
		select {
		case token := <-got:
			t.Errorf("got token %q before the refresh", token)
		default:
		}
		close(release)
		if token := <-got; !strings.HasPrefix(token, "access-") {
			t.Errorf("got token %q", token)
		}
		if n := len(h.provider.Requests()); n != 1 {
			t.Errorf("got %d token requests, want 1", n)
		}
		// Sent once more it is the one that was replaced.
		_, outcome, err := h.importBody(h.key, `{"credentials":{"refresh_token":"r1"}}`)
		if err != nil || outcome != record.ImportKept {
			t.Errorf("got %q, %v, want kept", outcome, err)
		}
	})
}

func TestLifetimeOfTheImportPlansRefreshesWhenAnswersHaveNone(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.provider.Grant("r1")
		h.provider.Lifetime = 0
		h.mustImport("a1", "r1", `"issued_at":"1999-12-31T23:00:00Z","expires_in":600`)
		synctest.Wait()
		first := h.token(h.key)
		time.Sleep(7 * time.Minute)
		if got := h.token(h.key); got != first {
			t.Errorf("refreshed after 7 of 10 minutes")
		}
		time.Sleep(2 * time.Minute)
		h.token(h.key) // valid as far as is known, and due
		synctest.Wait()
		if got := h.token(h.key); got == first {
			t.Errorf("not refreshed after 9 of 10 minutes")
		}
	})
}
