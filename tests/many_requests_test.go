package tests

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
)

// inParallel calls do n times, some of them at the same time, and returns the errors.
func inParallel(n int, do func(i int) error) error {
	const atATime = 20
	errs := make([]error, n)
	slots := make(chan struct{}, atATime)
	for i := range n {
		slots <- struct{}{}
		go func() {
			defer func() { <-slots }()
			errs[i] = do(i)
		}()
	}
	for range atATime {
		slots <- struct{}{}
	}
	return errors.Join(errs...)
}

// tryImport is [process.importBody] for goroutines other than the test's.
func (p *process) tryImport(customer, body string) error {
	ctx, cancel := context.WithTimeout(context.Background(), waitTimeout)
	defer cancel()
	url := p.apiURL("/vault/connections/" + acme + "/import")
	got, err := try(ctx, http.MethodPost, url, p.deployment.apiHeader(customer), body)
	if err == nil && got.status != http.StatusOK {
		err = fmt.Errorf("import = %v, want 200", got)
	}
	return err
}

// A dead refresh token is sent once, however many callers need a token, even after a restart.
func TestDeadConnectionCostsOneTokenRequest(t *testing.T) {
	inEveryStore(t, func(t *testing.T, d *deployment) {
		const requests = 200
		p := d.start(t)
		login := d.expired(t, consumer)
		d.provider.Revoke(t, consumer)
		p.importTokens(t, acme, consumer, login)
		refused := func(int) error {
			got, err := p.tryCall("/acme/contacts", consumer)
			if err == nil && got.status != http.StatusUnauthorized {
				err = fmt.Errorf("a call = %v, want 401", got)
			}
			return err
		}
		if err := inParallel(requests, refused); err != nil {
			t.Error(err)
		}
		p.stop(t)
		p = d.start(t)
		if err := inParallel(requests, refused); err != nil {
			t.Error(err)
		}
		wantNeedsAuth(t, p.call(t, "/acme/contacts", consumer))
		p.stop(t) // delivers pending webhooks
		d.wantTokenRequests(t, consumer, 1)
		if got := d.webhooks.of(failedEvent); len(got) != 1 {
			t.Errorf("got %d webhooks %s, want one", len(got), failedEvent)
		}
	})
}

// A wrong client secret is tried with one of a thousand connections and reported once. When it
// is corrected, all of them work.
func TestWrongClientSecretCostsNoCredentials(t *testing.T) {
	inEveryStore(t, func(t *testing.T, d *deployment) {
		const connections = 1000
		customer := func(i int) string { return fmt.Sprintf("customer-%d", i) }
		right := d.clientSecret
		d.clientSecret = "wrong"
		p := d.start(t)
		p.importTokens(t, acme, customer(0), d.expired(t, customer(0)))
		d.awaitRefreshes(t, customer(0), 1)
		d.webhooks.await(t, failedEvent)
		bodies := make([]string, connections)
		for i := range bodies[1:] {
			bodies[i+1] = tokensBody(t, d.expired(t, customer(i+1)), nil)
		}
		if err := inParallel(connections-1, func(i int) error { return p.tryImport(customer(i+1), bodies[i+1]) }); err != nil {
			t.Fatal(err)
		}
		if err := inParallel(connections, func(i int) error {
			got, err := p.tryCall("/acme/contacts", customer(i))
			if err == nil && (got.status != http.StatusServiceUnavailable || got.header.Get("Retry-After") == "") {
				err = fmt.Errorf("a call = %v, want 503 with Retry-After", got)
			}
			return err
		}); err != nil {
			t.Error(err)
		}
		sent := 0
		for i := range connections {
			sent += len(d.provider.TokenRequests(customer(i)))
		}
		if sent != 1 {
			t.Errorf("got %d token requests, want one", sent)
		}
		if got := d.webhooks.of(failedEvent); len(got) != 1 {
			t.Errorf("got %d webhooks %s, want one", len(got), failedEvent)
		}

		d.clientSecret = right
		p.load(t, d.caddyfile(t, p.ports))
		deadline := time.Now().Add(waitTimeout)
		if err := inParallel(connections, func(i int) error {
			return brokertest.Retry(time.Until(deadline), func() error {
				got, err := p.tryCall("/acme/contacts", customer(i))
				if err == nil && got.status != http.StatusOK {
					err = fmt.Errorf("with the right client a call = %v, want 200", got)
				}
				return err
			})
		}); err != nil {
			t.Error(err)
		}
		for i := range connections {
			// The first one has tried the wrong secret.
			if got, want := len(d.provider.TokenRequests(customer(i))), 1; got != want && (i > 0 || got != want+1) {
				t.Errorf("%s: %d token requests, want %d", customer(i), got, want)
			}
		}
		d.wantUnbroken(t, p, customer(connections-1), 1)
		if got := d.provider.Reuses(); got != 0 {
			t.Errorf("the OAuth server saw %d reuses of a refresh token, want none", got)
		}
		p.stop(t)
		if got := d.webhooks.of(failedEvent); len(got) != 1 {
			t.Errorf("got %d webhooks %s, want one", len(got), failedEvent)
		}
	})
}
