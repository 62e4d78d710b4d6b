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

// inParallel does n things, some at a time, and returns what went wrong.
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

// tryImport imports for other goroutines than the test's.
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

// The refresh token is dead: the token endpoint is asked once, however many ask for a
// token, also after a restart.
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
		p.stop(t) // which delivers what is to be delivered
		d.wantRedeems(t, consumer, 1)
		if got := d.webhooks.of(failedEvent); len(got) != 1 {
			t.Errorf("%d webhooks %s came, want one", len(got), failedEvent)
		}
	})
}

// The client secret is wrong, which is nobody's fault but the operator's: it is tried
// with one of a thousand connections, told once, and once it is right all of them work.
func TestWrongClientSecretCostsNobodysCredentials(t *testing.T) {
	inEveryStore(t, func(t *testing.T, d *deployment) {
		const connections = 1000
		customer := func(i int) string { return fmt.Sprintf("customer-%d", i) }
		right := d.clientSecret
		d.clientSecret = "wrong"
		p := d.start(t)
		p.importTokens(t, acme, customer(0), d.expired(t, customer(0)))
		d.awaitRedeems(t, customer(0), 1)
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
			t.Errorf("the token endpoint was asked %d times, want once", sent)
		}
		if got := d.webhooks.of(failedEvent); len(got) != 1 {
			t.Errorf("%d webhooks %s came, want one", len(got), failedEvent)
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
			// The wrong client has cost the first of them a request.
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
			t.Errorf("%d webhooks %s came, want one", len(got), failedEvent)
		}
	})
}
