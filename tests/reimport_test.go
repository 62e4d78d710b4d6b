package tests

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest/vaulttest"
	"github.com/tokenbroker/caddy-token-broker/tests/oauthserver"
)

// An application cannot know when the token broker refreshes: it may repeat an import before,
// during or after a refresh.
func TestRepeatedImportNeverBreaksAConnection(t *testing.T) {
	t.Parallel()
	for _, rotation := range []struct {
		name   string
		config oauthserver.Config
	}{
		{"rotating", oauthserver.Config{}},
		{"not rotating", oauthserver.Config{NoRotation: true}},
	} {
		t.Run(rotation.name, func(t *testing.T) {
			t.Parallel()
			t.Run("embedded", func(t *testing.T) {
				t.Parallel()
				repeatedImports(t, newDeployment(t, rotation.config).onDisk())
			})
			t.Run("vault", func(t *testing.T) {
				t.Parallel()
				repeatedImports(t, newDeployment(t, rotation.config).onVault(t, vaulttest.Shared(t)))
			})
		})
	}
}

func repeatedImports(t *testing.T, d *deployment) {
	p := d.start(t)
	t.Run("before the refresh", func(t *testing.T) {
		const customer = "before"
		login := d.provider.Login(t, customer, 0)
		p.importTokens(t, acme, customer, login)
		if got := p.importTokens(t, acme, customer, login); got != "kept" {
			t.Errorf("the second import was %s, want kept", got)
		}
		// The same tokens without times contain nothing new.
		body := fmt.Sprintf(`{"credentials": {"access_token": %q, "refresh_token": %q}}`, login.AccessToken, login.RefreshToken)
		p.importBody(t, acme, customer, body).connection(t)
		d.wantUnbroken(t, p, customer, 0)
	})
	t.Run("during the refresh", func(t *testing.T) {
		const customer = "during"
		gate := d.provider.HoldToken(t)
		login := d.provider.Login(t, customer, 2*oauthserver.DefaultLifetime)
		p.importTokens(t, acme, customer, login)
		gate.Await(t) // the refresh token is spent, and the response is held back
		if got := p.importTokens(t, acme, customer, login); got != "kept" {
			t.Errorf("the second import was %s, want kept", got)
		}
		gate.Open()
		d.wantUnbroken(t, p, customer, 1)
	})
	t.Run("after the refresh", func(t *testing.T) {
		const customer = "after"
		login := d.provider.Login(t, customer, 2*oauthserver.DefaultLifetime)
		p.importTokens(t, acme, customer, login)
		d.wantUnbroken(t, p, customer, 1)
		for range 2 {
			if got := p.importTokens(t, acme, customer, login); got != "kept" {
				t.Errorf("the import after the refresh was %s, want kept", got)
			}
		}
		d.wantUnbroken(t, p, customer, 1)
		if got := d.provider.Redeemed(customer, 0); got != 1 {
			t.Errorf("the imported refresh token was sent %d times, want once", got)
		}
	})
	if got := d.provider.Reuses(); got != 0 {
		t.Errorf("the OAuth server saw %d reuses of a refresh token, want none", got)
	}
}

// wantUnbroken checks that calls use the token of a number, that the connection is callable, and
// that no spent refresh token was sent.
func (d *deployment) wantUnbroken(t *testing.T, p *process, customer string, generation int) {
	t.Helper()
	if got := p.generationOf(t, "/acme/contacts", customer); got != generation {
		t.Errorf("downstream saw token %d, want %d", got, generation)
	}
	if conn := p.get(t, acme, customer).connection(t); conn.State != "callable" || conn.Health != "ok" {
		t.Errorf("the connection is %s, %s; want callable, ok", conn.State, conn.Health)
	}
	if got := d.provider.Reuses(); got != 0 {
		t.Errorf("the OAuth server saw %d reuses of a refresh token, want none", got)
	}
}

// When a customer authorises again, the new grant replaces the old one.
func TestImportOfANewGrantReplacesTheOldOne(t *testing.T) {
	inEveryStore(t, func(t *testing.T, d *deployment) {
		p := d.start(t)
		first := d.provider.Login(t, "the first", 0)
		p.importTokens(t, acme, consumer, first)
		second := d.provider.Login(t, "the second", 0)
		if got := p.importTokens(t, acme, consumer, second); got != "stored" {
			t.Errorf("the new grant was %s, want stored", got)
		}
		if got := p.importTokens(t, acme, consumer, first); got != "kept" {
			t.Errorf("the import of the old grant was %s, want kept: the stored one is newer", got)
		}
		if got := p.call(t, "/acme/contacts", consumer); got.status != http.StatusOK {
			t.Fatalf("a call = %v, want 200", got)
		}
		if got := d.provider.Calls("the second"); len(got) != 1 {
			t.Errorf("downstream saw the second grant %d times, want once", len(got))
		}
	})
}
