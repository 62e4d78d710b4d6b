package tests

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/tests/oauthserver"
)

// importInStandby imports the tokens of a login, while another system refreshes them.
func (p *process) importInStandby(t *testing.T, customer string, tokens oauthserver.Tokens) {
	t.Helper()
	header := p.deployment.apiHeader(customer)
	header.Set("X-Token-Broker-Standby", "true")
	got := send(t, http.MethodPost, p.apiURL("/vault/connections/"+acme+"/import"), header, tokensBody(t, tokens, nil))
	if got.status != http.StatusOK || !strings.Contains(string(got.body), `"standby":true`) {
		t.Fatalf("import = %v, want 200 in standby", got)
	}
}

// switchAll runs `token-broker activate` or `token-broker standby`, and returns its output.
func (p *process) switchAll(t *testing.T, verb string, args ...string) (string, error) {
	t.Helper()
	cmd := p.deployment.command(append([]string{verb, "--to", p.apiURL(""), "--app", application}, args...)...)
	cmd.Env = append(cmd.Env, "TOKEN_BROKER_API_KEY="+p.deployment.apiKey)
	out, err := cmd.CombinedOutput()
	if strings.Contains(string(out), p.deployment.apiKey) {
		t.Errorf("%s prints the API key: %s", verb, out)
	}
	return string(out), err
}

// A move to the broker and back, with an old system that goes on refreshing in the meantime.
func TestMoveFromAnotherSystemAndBack(t *testing.T) {
	inEveryStore(t, func(t *testing.T, d *deployment) {
		p := d.start(t)
		for i := range 3 {
			p.importInStandby(t, fmt.Sprint("moved-", i), d.provider.Login(t, fmt.Sprint("moved-", i), 0))
			p.importInStandby(t, fmt.Sprint("expired-", i), d.expired(t, fmt.Sprint("expired-", i)))
		}
		d.wantUnbroken(t, p, "moved-0", 0)
		p.call(t, "/acme/contacts", "expired-0").wantError(t, http.StatusServiceUnavailable, "StandbyError")
		if got := d.provider.TokenRequests("expired-0"); len(got) != 0 {
			t.Errorf("got %d token requests in standby, want none", len(got))
		}

		out, err := p.switchAll(t, "activate", "--connector", acme)
		if err != nil || !strings.Contains(out, "6 connections activated, 0 were active already, 0 failed") {
			t.Fatalf("activate: %v: %s", err, out)
		}
		for i := range 3 {
			d.awaitRefreshes(t, fmt.Sprint("expired-", i), 1)
		}
		d.wantUnbroken(t, p, "expired-0", 1)
		if got := d.provider.TokenRequests("moved-0"); len(got) != 0 {
			t.Errorf("got %d token requests for a token that is valid, want none", len(got))
		}

		if out, err = p.switchAll(t, "standby"); err != nil || !strings.Contains(out, "6 connections put into standby, 0 were in standby already, 0 failed") {
			t.Fatalf("standby: %v: %s", err, out)
		}
		if out, err = p.switchAll(t, "standby", "--consumer", "moved-1"); err != nil || !strings.Contains(out, "1 were in standby already") {
			t.Errorf("standby again: %v: %s", err, out)
		}
		if got := p.get(t, acme, "expired-1").connection(t); got.State != "callable" {
			t.Errorf("the connection is %s, want callable", got.State)
		}
		if got := d.provider.Reuses(); got != 0 {
			t.Errorf("the OAuth server saw %d reuses of a refresh token, want none", got)
		}
	})
}

func TestSwitchFailsWithoutTheRightKey(t *testing.T) {
	t.Parallel()
	d := newDeployment(t, oauthserver.Config{}).onDisk()
	p := d.start(t)
	d.apiKey = "another-key"
	if out, err := p.switchAll(t, "activate"); err == nil || !strings.Contains(out, "UnauthorizedError (401)") {
		t.Errorf("got %v: %s", err, out)
	}
}

// The previous release does not know standby, and must not refresh such a connection. What it
// cannot read it leaves alone.
func TestPreviousReleaseRefreshesNothingInStandby(t *testing.T) {
	inEveryStore(t, func(t *testing.T, d *deployment) {
		before := previous(t).binary
		p := d.start(t)
		p.importInStandby(t, consumer, d.expired(t, consumer))
		p.importTokens(t, acme, "active", d.provider.Login(t, "active", 0))
		p.stop(t)

		d.binary = before
		p = d.start(t)
		if got := p.call(t, "/acme/contacts", consumer); got.status != http.StatusServiceUnavailable {
			t.Errorf("a call = %v, want 503", got)
		}
		d.wantUnbroken(t, p, "active", 0)
		p.stop(t)
		if got := d.provider.TokenRequests(consumer); len(got) != 0 {
			t.Errorf("got %d token requests, want none", len(got))
		}

		d.binary = binary
		p = d.start(t)
		if out, err := p.switchAll(t, "activate"); err != nil || !strings.Contains(out, "1 connections activated, 1 were active already") {
			t.Fatalf("activate: %v: %s", err, out)
		}
		d.awaitRefreshes(t, consumer, 1)
		eventually(t, "a call", func() error {
			if got := p.call(t, "/acme/contacts", consumer); got.status != http.StatusOK {
				return errors.New(got.String())
			}
			return nil
		})
		d.wantUnbroken(t, p, consumer, 1)
	})
}
