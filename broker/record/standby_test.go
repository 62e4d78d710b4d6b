package record_test

import (
	"errors"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

func TestActivationQueuesTheRefreshThatIsDue(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		credentials *record.ImportCredentials
		want        bool
	}{
		"a valid token":   {tokens("a", "r", 0), false},
		"an expired one":  {tokens("a", "r", 2*time.Hour), true},
		"unknown expiry":  {undated("a", "r"), true},
		"no access token": {undated("", "r"), true},
	} {
		c := connect(t, connector.Definition{})
		c.must(&record.Import{Credentials: test.credentials, Standby: new(true)})
		if !c.Standby || c.Cycle.Queued {
			t.Errorf("%s: got standby %t, queued %t after the import", name, c.Standby, c.Cycle.Queued)
		}
		if c.CanRefresh(c.conn) || c.IsNeglected(c.conn, now.Add(1000*time.Hour)) || c.IsIdle(c.conn, time.Hour, now.Add(1000*time.Hour)) {
			t.Errorf("%s: it would be refreshed in standby", name)
		}
		if !errors.Is(c.StandbyError(), record.ErrStandby) {
			t.Errorf("%s: got %v, want ErrStandby", name, c.StandbyError())
		}
		if !c.Activate(c.conn, now) || c.Cycle.Queued != test.want || c.StandbyError() != nil {
			t.Errorf("%s: got queued %t, want %t", name, c.Cycle.Queued, test.want)
		}
		if c.Activate(c.conn, now) || !c.EnterStandby() || c.EnterStandby() || c.Cycle.Queued {
			t.Errorf("%s: a switch cannot be repeated", name)
		}
		if !c.Activate(nil, now) || c.Cycle.Queued {
			t.Errorf("%s: a refresh is queued without a connector", name)
		}
	}
}

// The other system's provider does not rotate, so that only the access token tells what is newer.
func TestAccessTokensOfTheSameGrantInStandby(t *testing.T) {
	t.Parallel()
	until := func(access string, in time.Duration) *record.ImportCredentials {
		c := undated(access, "r")
		c.ExpiresAt = now.Add(in)
		return c
	}
	for name, test := range map[string]struct {
		stored, sent      *record.ImportCredentials
		active, inStandby record.ImportOutcome
	}{
		"issued later":               {tokens("a1", "r", time.Hour), tokens("a2", "r", time.Minute), record.ImportStored, record.ImportStored},
		"issued earlier":             {tokens("a1", "r", time.Minute), tokens("a2", "r", time.Hour), record.ImportKept, record.ImportKept},
		"expires later":              {until("a1", time.Hour), until("a2", 2*time.Hour), record.ImportKept, record.ImportStored},
		"expires earlier":            {until("a1", 2*time.Hour), until("a2", time.Hour), record.ImportKept, record.ImportKept},
		"expiry was unknown":         {undated("a1", "r"), until("a2", time.Hour), record.ImportKept, record.ImportStored},
		"both unknown":               {undated("a1", "r"), undated("a2", "r"), record.ImportKept, record.ImportStored},
		"the same":                   {undated("a1", "r"), until("a1", time.Hour), record.ImportKept, record.ImportKept},
		"no access token":            {undated("a1", "r"), undated("", "r"), record.ImportKept, record.ImportKept},
		"the stored one is issued":   {tokens("a1", "r", time.Minute), until("a2", 30*time.Hour), record.ImportKept, record.ImportStored},
		"the sent one does not tell": {tokens("a1", "r", time.Minute), undated("a2", "r"), record.ImportKept, record.ImportStored},
	} {
		for standby, want := range map[bool]record.ImportOutcome{false: test.active, true: test.inStandby} {
			c := connect(t, connector.Definition{})
			c.must(&record.Import{Credentials: test.stored, Standby: &standby})
			if got := c.mustImport(test.sent); got != want {
				t.Errorf("%s, standby %t: got %s, want %s", name, standby, got, want)
			}
		}
	}
}
