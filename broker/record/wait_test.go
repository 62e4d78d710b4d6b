package record_test

import (
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

func TestWaitEndsByEitherClock(t *testing.T) {
	t.Parallel()
	rec := record.Record{Cycle: record.Cycle{RetryAt: now.Add(time.Minute), Wait: time.Minute}}
	for name, test := range map[string]struct {
		now     time.Time
		watched time.Duration
		want    time.Duration
	}{
		"at once":                        {now, 0, time.Minute},
		"halfway":                        {now.Add(30 * time.Second), 30 * time.Second, 30 * time.Second},
		"at its end":                     {now.Add(time.Minute), time.Minute, 0},
		"a reader that comes late":       {now.Add(50 * time.Second), 0, 10 * time.Second},
		"a reader whose clock is behind": {now.Add(-24 * time.Hour), 0, time.Minute},
		"behind, after a while":          {now.Add(-24 * time.Hour), 40 * time.Second, 20 * time.Second},
		"behind, at the end":             {now.Add(-24 * time.Hour), time.Minute, 0},
		"a reader whose clock is ahead":  {now.Add(24 * time.Hour), 0, 0},
	} {
		if got := rec.Remaining(test.now, test.watched, false); got != test.want {
			t.Errorf("%s: %v remain, want %v", name, got, test.want)
		}
	}
}

func TestWaitWithoutADurationIsBounded(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		cycle record.Cycle
		want  time.Duration
	}{
		"with the time of the failure": {record.Cycle{FailedAt: now.Add(24 * time.Hour), RetryAt: now.Add(24*time.Hour + time.Second)}, time.Second},
		"without":                      {record.Cycle{RetryAt: now.Add(24 * time.Hour)}, 5 * time.Minute},
		"none":                         {record.Cycle{FailedAt: now}, 0},
	} {
		rec := record.Record{Cycle: test.cycle}
		if got := rec.Remaining(now, 0, false); got != test.want {
			t.Errorf("%s: %v remain, want %v", name, got, test.want)
		}
	}
}

func TestRejectedTokenShortensAWaitForItsExpiry(t *testing.T) {
	t.Parallel()
	c := connect(t, connector.Definition{Rotation: connector.Rotation{Kind: connector.RotationAlways}})
	c.mustImport(tokens("a1", "r1", 10*time.Minute))
	policy := record.Policy{Rotation: connector.Rotation{Kind: connector.RotationAlways}}
	c.failAt(now, record.Answer{Class: record.ClassAmbiguous}, policy)
	if got := c.Remaining(now, 0, false); got < 5*time.Minute {
		t.Errorf("%v remain while the token works, want until it expires", got)
	}
	if got := c.Remaining(now, 0, true); got > time.Second {
		t.Errorf("%v remain once downstream has refused the token, want the backoff", got)
	}
	if !c.Cycle.SparesGrant() {
		t.Error("the wait does not spare the grant")
	}
}

// A replica whose clock is behind decides that a refresh token that may be spent waits until the
// access token expires. By the clock of the others that moment comes while the token still works.
func TestWaitThatSparesTheGrantLastsByTheReadersClock(t *testing.T) {
	t.Parallel()
	d := connector.Definition{Rotation: connector.Rotation{Kind: connector.RotationAlways}}
	c := connect(t, d)
	c.mustImport(tokens("a1", "r1", 40*time.Minute))
	policy := record.Policy{Rotation: d.Rotation}
	c.failAt(now.Add(-2*time.Minute), record.Answer{Class: record.ClassAmbiguous}, policy)
	conn := &record.Connector{Definition: d}
	conn.AuthType = connector.OAuth2
	for name, test := range map[string]struct {
		now       time.Time
		wait      time.Duration
		neglected bool
	}{
		"when the wait ends by its writer's clock":        {now.Add(18*time.Minute + 30*time.Second), 90 * time.Second, false},
		"when the token expires":                          {now.Add(20 * time.Minute), 0, true},
		"by a clock that is behind":                       {now.Add(-3 * time.Minute), 22 * time.Minute, false},
		"by a clock that nothing in the record fits with": {now.Add(-24 * time.Hour), 22 * time.Minute, true},
	} {
		if got := c.Remaining(test.now, 0, false); got != test.wait {
			t.Errorf("%s: %v remain, want %v", name, got, test.wait)
		}
		if got := c.IsNeglected(conn, test.now); got != test.neglected {
			t.Errorf("%s: neglected is %t, want %t", name, got, test.neglected)
		}
	}
	if got := c.Remaining(now, 22*time.Minute, false); got != 0 {
		t.Errorf("%v remain for a reader that has watched the wait for its whole length", got)
	}
}

// The job lasts as long as it was to last, by whatever the clock was set between two attempts.
func TestSettingTheClockDoesNotMoveTheEndOfTheRetries(t *testing.T) {
	t.Parallel()
	for _, set := range []time.Duration{-24 * time.Hour, -time.Hour, time.Hour, 24 * time.Hour} {
		c := connect(t, connector.Definition{})
		c.mustImport(tokens("a1", "r1", 2*time.Hour))
		at, passed, isSet := now, time.Duration(0), false
		var event record.EventType
		for event != record.EventRefreshFailed && passed < 3*giveUp {
			if passed > giveUp/2 && !isSet {
				at, isSet = at.Add(set), true
			}
			event = c.failAt(at, record.Answer{Class: record.ClassTransient}, record.Policy{})
			at, passed = at.Add(c.Cycle.Wait), passed+c.Cycle.Wait
		}
		if passed < giveUp-2*time.Minute || passed > giveUp+11*time.Minute {
			t.Errorf("set by %v: the retries ended after %v, want %v and a backoff", set, passed, giveUp)
		}
	}
}
