package tests

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest/vaulttest"
	"github.com/tokenbroker/caddy-token-broker/tests/oauthserver"
)

// A crash right after an import was answered with 200 does not lose it.
func TestImportSurvivesACrash(t *testing.T) {
	inEveryStore(t, func(t *testing.T, d *deployment) {
		p := d.start(t)
		p.importTokens(t, acme, consumer, d.provider.Login(t, consumer, 0))
		p.kill(t)
		d.wantUnbroken(t, d.start(t), consumer, 0)
	})
}

// Imports at the same time share the syncs of the embedded store.
func TestImportsAtTheSameTimeSurviveACrash(t *testing.T) {
	inEveryStore(t, func(t *testing.T, d *deployment) {
		p := d.start(t)
		bodies := make(map[string]string) // by consumer
		for i := range 32 {
			consumer := fmt.Sprintf("%s-%d", consumer, i)
			bodies[consumer] = tokensBody(t, d.provider.Login(t, consumer, 0), nil)
		}
		done := make(chan error, len(bodies))
		for consumer, body := range bodies {
			go func() {
				got, err := try(t.Context(), http.MethodPost, p.apiURL("/vault/connections/"+acme+"/import"), d.apiHeader(consumer), body)
				if err == nil && got.status != http.StatusOK {
					err = errors.New(got.String())
				}
				done <- err
			}()
		}
		for range bodies {
			if err := <-done; err != nil {
				t.Errorf("an import: %v", err)
			}
		}
		p.kill(t)
		p = d.start(t)
		for consumer := range bodies {
			d.wantUnbroken(t, p, consumer, 0)
		}
	})
}

func TestRefreshedTokenSurvivesACrash(t *testing.T) {
	inEveryStore(t, func(t *testing.T, d *deployment) {
		p := d.start(t)
		login := d.provider.Login(t, consumer, 2*oauthserver.DefaultLifetime)
		p.importTokens(t, acme, consumer, login)
		d.wantUnbroken(t, p, consumer, 1) // a refreshed token is saved before it is used
		p.kill(t)
		p = d.start(t)
		d.wantUnbroken(t, p, consumer, 1)
		if got := p.importTokens(t, acme, consumer, login); got != "kept" {
			t.Errorf("the import of the old tokens was %s, want kept", got)
		}
		d.wantUnbroken(t, p, consumer, 1)
	})
}

// While Vault restarts, calls with valid tokens work and requests that need Vault are answered
// with 503. Afterwards everything works again.
func TestVaultCanRestart(t *testing.T) {
	t.Parallel()
	server := vaulttest.Start(t, vaulttest.WithStorage(vaulttest.Raft))
	d := newDeployment(t, oauthserver.Config{}).onVault(t, server)
	p := d.start(t)
	p.importTokens(t, acme, consumer, d.provider.Login(t, consumer, 0))
	server.Kill(t)

	if got := p.generationOf(t, "/acme/contacts", consumer); got != 0 {
		t.Errorf("with Vault down, downstream saw token %d, want that of the login", got)
	}
	got := p.importBody(t, acme, "another", `{"credentials": {"access_token": "at", "refresh_token": "rt"}}`)
	got.wantError(t, http.StatusServiceUnavailable, "ServiceUnavailableError")
	if got.header.Get("Retry-After") == "" {
		t.Error("a 503 has no Retry-After")
	}
	if p.ready() == nil {
		t.Error("the process is ready without Vault")
	}

	server.Restart(t)
	eventually(t, "readiness", p.ready)
	p.importTokens(t, acme, "another", d.provider.Login(t, "another", 0))
	d.wantUnbroken(t, p, consumer, 0)
	p.kill(t)
	p = d.start(t)
	d.wantUnbroken(t, p, consumer, 0)
	d.wantUnbroken(t, p, "another", 0)
}

// A process is replaced after the token endpoint has spent the refresh token and before it has
// responded. The old process waits for the response and saves it.
func TestRollingRestartBurnsNoRefreshToken(t *testing.T) {
	inEveryStore(t, func(t *testing.T, d *deployment) {
		gate := d.provider.HoldToken(t)
		before := d.start(t)
		before.importTokens(t, acme, consumer, d.provider.Login(t, consumer, 2*oauthserver.DefaultLifetime))
		gate.Await(t)

		var after *process
		called := make(chan answer, 1)
		if d.isShared {
			after = d.start(t)
			go func() { // waits for the token that the old process saves
				got, err := after.tryCall("/acme/contacts", consumer)
				if err != nil {
					t.Error(err)
				}
				called <- got
			}()
		}
		before.terminate(t)
		eventually(t, "the beginning of the shutdown", func() error {
			if _, err := get(before.apiURL("/"), http.Header{}); err == nil {
				return errors.New("it still accepts requests")
			}
			return nil
		})
		if before.hasExited() {
			t.Fatal("the process ended before the token endpoint responded")
		}
		gate.Open()
		before.awaitExit(t)
		if d.isShared {
			if got := <-called; got.status != http.StatusOK {
				t.Errorf("the call to the new process = %v, want 200", got)
			}
		} else {
			after = d.start(t)
		}
		d.wantUnbroken(t, after, consumer, 1)
		if got := d.provider.TokenRequests(consumer); len(got) != 1 || !got[0].Delivered {
			t.Errorf("token requests: %+v, want one", got)
		}
	})
}

// The configuration is replaced while a refresh is in progress and a request waits for it.
func TestReloadDuringARefreshLosesNothing(t *testing.T) {
	inEveryStore(t, func(t *testing.T, d *deployment) {
		gate := d.provider.HoldToken(t)
		p := d.start(t)
		p.importTokens(t, acme, consumer, d.provider.Login(t, consumer, 2*oauthserver.DefaultLifetime))
		gate.Await(t)
		called := make(chan answer, 2)
		call := func() {
			got, err := p.tryCall("/acme/contacts", consumer)
			if err != nil {
				t.Error(err)
			}
			called <- got
		}
		go call()

		d.site = "header X-Configuration second"
		p.reload(t)
		eventually(t, "the new configuration", func() error {
			got, err := get(p.apiURL("/"), http.Header{})
			if err == nil && got.header.Get("X-Configuration") != "second" {
				err = errors.New("the old one is still in use")
			}
			return err
		})
		go call()
		gate.Open()
		for range 2 {
			if got := <-called; got.status != http.StatusOK || !strings.Contains(string(got.body), `"generation":1`) {
				t.Errorf("a call that had to wait = %v, want 200 with token 1", got)
			}
		}
		d.wantUnbroken(t, p, consumer, 1)
		if got := d.provider.Redeemed(consumer, 0); got != 1 {
			t.Errorf("the refresh token was sent %d times, want once", got)
		}
	})
}

// Two processes on one Vault get calls as soon as a token has expired: it is refreshed once.
func TestReplicasRefreshOnce(t *testing.T) {
	t.Parallel()
	d := newDeployment(t, oauthserver.Config{}).onVault(t, vaulttest.Shared(t))
	gate := d.provider.HoldToken(t)
	replicas := []*process{d.start(t), d.start(t)}
	replicas[0].importTokens(t, acme, consumer, d.provider.Login(t, consumer, 2*oauthserver.DefaultLifetime))
	gate.Await(t)
	const calls = 8
	called := make(chan error, calls)
	for i := range calls {
		go func() {
			got, err := replicas[i%2].tryCall("/acme/contacts", consumer)
			if err == nil && got.status != http.StatusOK {
				err = errors.New(got.String())
			}
			called <- err
		}()
	}
	gate.Open()
	for range calls {
		if err := <-called; err != nil {
			t.Error(err)
		}
	}
	d.wantUnbroken(t, replicas[0], consumer, 1)
	d.wantUnbroken(t, replicas[1], consumer, 1)
	if got := d.provider.Redeemed(consumer, 0); got != 1 {
		t.Errorf("the refresh token was sent %d times, want once", got)
	}
}
