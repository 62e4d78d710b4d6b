package tests

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/tests/oauthserver"
)

// storeStatus is what `token-broker status --json` says.
type storeStatus struct {
	Storage    string
	Connectors []struct {
		App, Connector                string
		Connections, Standby, Expired int
	}
	Total    map[string]int
	Problems []struct {
		Consumer_ID, Health, Class, Code, Since string
		Standby                                 bool
	}
}

// status runs `token-broker status`, whose output must not have any of the tokens.
func (d *deployment) status(t *testing.T, config string, tokens []oauthserver.Tokens) (s storeStatus) {
	t.Helper()
	out, err := d.command("status", "--config", config, "--json", "--problems").Output()
	if err != nil {
		t.Fatalf("status: %v\n%s", err, out)
	}
	for _, secrets := range tokens {
		if strings.Contains(string(out), secrets.AccessToken) || strings.Contains(string(out), secrets.RefreshToken) {
			t.Errorf("the output has a token:\n%s", out)
		}
	}
	if err := json.Unmarshal(out, &s); err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	return s
}

// Status shows a move while the process has the store open, and after it has ended.
func TestStatusShowsStandbyAndProblems(t *testing.T) {
	inEveryStore(t, func(t *testing.T, d *deployment) {
		p := d.start(t)
		var tokens []oauthserver.Tokens
		login := func(customer string, expired bool) oauthserver.Tokens {
			if expired {
				tokens = append(tokens, d.expired(t, customer))
			} else {
				tokens = append(tokens, d.provider.Login(t, customer, 0))
			}
			return tokens[len(tokens)-1]
		}
		p.importTokens(t, acme, "active", login("active", false))
		p.importInStandby(t, "moved", login("moved", false))
		p.importInStandby(t, "expired", login("expired", true))
		config := d.config(t)

		want := map[string]int{
			"connections": 3, "callable": 2, "ok": 2, "pending_refresh": 1, "needs_auth": 0, "missing_settings": 0, "not_configured": 0,
			"standby": 2, "disabled": 0, "expired": 1,
		}
		check := func(s storeStatus) {
			t.Helper()
			delete(s.Total, "expiring") // the lifetime is that of the OAuth server
			if !maps.Equal(s.Total, want) {
				t.Errorf("the total is %v, want %v", s.Total, want)
			}
			if c := s.Connectors; len(c) != 1 || c[0].App != application || c[0].Connector != acme || c[0].Standby != 2 {
				t.Errorf("got the connectors %+v", c)
			}
			if p := s.Problems; len(p) != 1 || p[0].Consumer_ID != "expired" || p[0].Health != "pending_refresh" || !p[0].Standby || p[0].Since == "" {
				t.Errorf("got the problems %+v", p)
			}
		}
		check(d.status(t, config, tokens))

		if table := d.mustRun(t, "status", "--config", config); !strings.Contains(table, "STANDBY") || !strings.Contains(table, acme) {
			t.Errorf("the table is\n%s", table)
		}
		d.wantUnbroken(t, p, "active", 0)
		p.stop(t)
		check(d.status(t, config, tokens))
	})
}
