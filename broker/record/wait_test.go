package record_test

import (
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

func TestWaitEndsByEitherClock(t *testing.T) {
	t.Parallel()
	cycle := record.Cycle{RetryAt: now.Add(time.Minute), Wait: time.Minute}
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
		if got := cycle.Remaining(test.now, test.watched, false); got != test.want {
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
		if got := test.cycle.Remaining(now, 0, false); got != test.want {
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
	if got := c.Cycle.Remaining(now, 0, false); got < 5*time.Minute {
		t.Errorf("%v remain while the token works, want until it expires", got)
	}
	if got := c.Cycle.Remaining(now, 0, true); got > time.Second {
		t.Errorf("%v remain once downstream has refused the token, want the backoff", got)
	}
	if !c.Cycle.SparesGrant() {
		t.Error("the wait does not spare the grant")
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
