package record_test

import (
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

const (
	giveUp    = time.Hour
	retention = 24 * time.Hour
)

// fail records a failed refresh now.
func (c *connection) fail(class record.Class) record.EventType {
	return c.failAt(now, record.Answer{Class: class, Code: "code"}, record.Policy{})
}

// failAt records a failed refresh, with the connector's rotation and the test's times.
func (c *connection) failAt(at time.Time, ans record.Answer, policy record.Policy) record.EventType {
	policy.Rotation = c.conn.RotationFor(c.Credentials)
	policy.GiveUp, policy.Retention = giveUp, retention
	return c.Fail(ans, policy, at)
}

// succeed records a refresh that obtained tokens for an hour.
func (c *connection) succeed(access, refresh string) record.EventType {
	return c.Succeed(record.Answer{
		AccessToken: secret.New(access), RefreshToken: secret.New(refresh), SentAt: now, Lifetime: time.Hour,
	})
}

func TestSuccessMergesTheAnswer(t *testing.T) {
	t.Parallel()
	sent := now.Add(time.Minute)
	for name, test := range map[string]struct {
		ans     record.Answer
		refresh string
		expiry  time.Time
	}{
		"rotated":     {record.Answer{RefreshToken: secret.New("r2"), Lifetime: time.Hour, SentAt: sent}, "r2", sent.Add(time.Hour)},
		"not rotated": {record.Answer{Lifetime: time.Hour, SentAt: sent}, "r1", sent.Add(time.Hour)},
		"the same":    {record.Answer{RefreshToken: secret.New("r1"), Lifetime: time.Hour, SentAt: sent}, "r1", sent.Add(time.Hour)},
		"no lifetime": {record.Answer{RefreshToken: secret.New("r2"), SentAt: sent}, "r2", time.Time{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := connect(t, connector.Definition{})
			c.mustImport(tokens("a1", "r1", 2*time.Hour))
			test.ans.AccessToken, test.ans.TokenType = secret.New("a2"), "mac"
			if got := c.Succeed(test.ans); got != "" {
				t.Errorf("got event %q, want none", got)
			}
			got, rotated := c.Credentials, test.refresh != "r1"
			if got.AccessToken.Reveal() != "a2" || got.RefreshToken.Reveal() != test.refresh || got.TokenType != "mac" {
				t.Errorf("got tokens %s, %s of type %s", got.AccessToken.Reveal(), got.RefreshToken.Reveal(), got.TokenType)
			}
			if !got.IssuedAt.Equal(sent) || !got.Expiry.Equal(test.expiry) {
				t.Errorf("got issued at %v, expiry %v, want %v, %v", got.IssuedAt, got.Expiry, sent, test.expiry)
			}
			if !got.Redeemed || got.FromImport == rotated {
				t.Errorf("got redeemed %v, from an import %v, want true, %v", got.Redeemed, got.FromImport, !rotated)
			}
			if (len(c.Replaced) == 1) != rotated || (len(c.Imported) == 1) != rotated {
				t.Errorf("got %d replaced, %d imported hashes, rotated %v", len(c.Replaced), len(c.Imported), rotated)
			}
			if c.Generation != 2 || c.Cycle != (record.Cycle{}) {
				t.Errorf("got generation %d, cycle %+v, want 2 and a new cycle", c.Generation, c.Cycle)
			}
		})
	}
}

func TestSuccessAfterAFailureIsARecovery(t *testing.T) {
	t.Parallel()
	for _, class := range []record.Class{
		record.ClassTransient, record.ClassAmbiguous, record.ClassRefused, record.ClassConfiguration, record.ClassPermanent,
	} {
		c := connect(t, connector.Definition{})
		c.mustImport(tokens("a1", "r1", 2*time.Hour))
		c.fail(class)
		if got := c.succeed("a2", "r2"); got != record.EventRefreshRecovered {
			t.Errorf("%s: got event %q, want recovered", class, got)
		}
		if got := c.succeed("a3", "r3"); got != "" {
			t.Errorf("%s: the next one emits %q", class, got)
		}
	}
}

func TestFailuresAreAnnouncedAndPlanned(t *testing.T) {
	t.Parallel()
	soon := func(after time.Duration) bool { return after >= time.Second/2 && after <= time.Second }
	for name, test := range map[string]struct {
		ans    record.Answer
		policy record.Policy
		event  record.EventType
		phase  record.Phase
		retry  func(after time.Duration) bool // nil: no retry
		parked bool
	}{
		"transient": {
			ans: record.Answer{Class: record.ClassTransient}, event: record.EventRefreshPending, phase: record.PhasePending, retry: soon,
		},
		"transient, Retry-After": {
			ans: record.Answer{Class: record.ClassTransient, RetryAfter: time.Hour}, event: record.EventRefreshPending, phase: record.PhasePending,
			retry: func(after time.Duration) bool { return after == time.Hour },
		},
		"configuration": {
			ans: record.Answer{Class: record.ClassConfiguration}, event: record.EventRefreshFailed, phase: record.PhaseFailed,
		},
		"configuration, announced for another connection": {
			ans: record.Answer{Class: record.ClassConfiguration}, policy: record.Policy{Announced: true}, phase: record.PhaseHealthy,
		},
		"refused": {
			ans: record.Answer{Class: record.ClassRefused}, event: record.EventRefreshPending, phase: record.PhasePending,
			retry: func(after time.Duration) bool { return after >= record.Cooldown && after <= record.Cooldown*11/10 },
		},
		"permanent": {
			ans: record.Answer{Class: record.ClassPermanent}, event: record.EventRefreshFailed, phase: record.PhaseFailed, parked: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := connect(t, connector.Definition{})
			c.mustImport(tokens("a1", "r1", 2*time.Hour))
			test.ans.Code = "code"
			if got := c.failAt(now, test.ans, test.policy); got != test.event {
				t.Errorf("got event %q, want %q", got, test.event)
			}
			if got := c.failAt(now, test.ans, test.policy); got != "" {
				t.Errorf("the second failure emits %q", got)
			}
			c = connect(t, connector.Definition{})
			c.mustImport(tokens("a1", "r1", 2*time.Hour))
			c.failAt(now, test.ans, test.policy)
			got := c.Cycle
			if got.Class != test.ans.Class || got.Code != "code" || got.Phase != test.phase || got.Attempts != 1 || !got.FailedAt.Equal(now) {
				t.Errorf("got cycle %+v", got)
			}
			if test.retry == nil && !got.RetryAt.IsZero() || test.retry != nil && !test.retry(got.RetryAt.Sub(now)) {
				t.Errorf("got a retry at %v, after %v", got.RetryAt, got.RetryAt.Sub(now))
			}
			if c.IsParked() != test.parked {
				t.Errorf("parked: %v, want %v", c.IsParked(), test.parked)
			}
		})
	}
}

// A retry after an unknown outcome costs what the provider's rotation makes of it.
func TestAmbiguousOutcomeIsRetriedAsTheRotationAllows(t *testing.T) {
	t.Parallel()
	valid, expired := tokens("a1", "r1", 0), tokens("a1", "r1", 2*time.Hour)
	for name, test := range map[string]struct {
		rotation connector.Rotation
		imported *record.ImportCredentials
		min, max time.Duration
	}{
		"never":           {connector.Rotation{Kind: connector.RotationNever}, valid, time.Second / 2, time.Second},
		"window":          {connector.Rotation{Kind: connector.RotationWindow, Window: time.Minute}, valid, 0, time.Second},
		"always":          {connector.Rotation{Kind: connector.RotationAlways}, valid, time.Hour, time.Hour},
		"always, expired": {connector.Rotation{Kind: connector.RotationAlways}, expired, time.Second / 2, time.Second},
	} {
		c := connect(t, connector.Definition{Rotation: test.rotation})
		c.mustImport(test.imported)
		if got := c.fail(record.ClassAmbiguous); got != record.EventRefreshPending {
			t.Errorf("%s: got event %q, want pending", name, got)
		}
		if after := c.Cycle.RetryAt.Sub(now); after < test.min || after > test.max {
			t.Errorf("%s: got a retry after %v, want %v to %v", name, after, test.min, test.max)
		}
		if c.Cycle.Ambiguous != 1 {
			t.Errorf("%s: got %d ambiguous attempts, want 1", name, c.Cycle.Ambiguous)
		}
	}
}

func TestBackoffDoublesUpToFiveMinutes(t *testing.T) {
	t.Parallel()
	c := connect(t, connector.Definition{})
	c.mustImport(tokens("a1", "r1", 2*time.Hour))
	ceiling := time.Second
	for attempt := range 40 {
		c.fail(record.ClassTransient)
		if after := c.Cycle.RetryAt.Sub(now); after < ceiling/2 || after > ceiling {
			t.Errorf("attempt %d: got a retry after %v, want %v to %v", attempt+1, after, ceiling/2, ceiling)
		}
		ceiling = min(2*ceiling, 5*time.Minute)
	}
}

func TestRetriesEndAtTheirDeadline(t *testing.T) {
	t.Parallel()
	c := connect(t, connector.Definition{})
	c.mustImport(tokens("a1", "r1", 2*time.Hour))
	c.fail(record.ClassTransient)
	deadline := c.Cycle.GiveUpAt
	if want := c.Cycle.RetryAt.Add(giveUp); !deadline.Equal(want) {
		t.Errorf("the deadline is %v, want %v", deadline, want)
	}
	if got := c.failAt(deadline.Add(-1), record.Answer{Class: record.ClassTransient}, record.Policy{}); got != "" || !c.Cycle.Queued {
		t.Errorf("before: got event %q, queued %v", got, c.Cycle.Queued)
	}
	if got := c.failAt(deadline, record.Answer{Class: record.ClassTransient}, record.Policy{}); got != record.EventRefreshFailed {
		t.Errorf("at the deadline: got event %q, want failed", got)
	}
	if c.Cycle.Queued || !c.Cycle.RetryAt.Equal(deadline.Add(record.Cooldown)) || !c.Cycle.GiveUpAt.Equal(deadline) {
		t.Errorf("got cycle %+v, want it over, with an attempt after the cooldown", c.Cycle)
	}
	if err := c.TokenError(deadline); !err.GivenUp || err.Parked || err.Class != record.ClassTransient {
		t.Errorf("got %+v, want it given up", err)
	}
}

func TestParkedConnectionStaysParkedUntilAnswered(t *testing.T) {
	t.Parallel()
	c := connect(t, connector.Definition{})
	c.mustImport(tokens("a1", "r1", 2*time.Hour))
	c.failAt(now, record.Answer{Class: record.ClassPermanent, Code: record.CodeInvalidGrant}, record.Policy{})
	expires := now.Add(retention)
	later := now.Add(time.Hour)
	for _, class := range []record.Class{
		record.ClassTransient, record.ClassAmbiguous, record.ClassRefused, record.ClassConfiguration, record.ClassPermanent,
	} {
		code := "code"
		if class == record.ClassPermanent {
			code = record.CodeInvalidGrant
		}
		if got := c.failAt(later, record.Answer{Class: class, Code: code}, record.Policy{}); got != "" {
			t.Errorf("%s: got event %q, want none", class, got)
		}
		if !c.IsParked() || c.Cycle.Class != record.ClassPermanent || c.Cycle.Code != record.CodeInvalidGrant {
			t.Errorf("%s: got cycle %+v, want it parked as before", class, c.Cycle)
		}
		if !c.Cycle.CredentialsExpireAt.Equal(expires) {
			t.Errorf("%s: the credentials expire at %v, want %v", class, c.Cycle.CredentialsExpireAt, expires)
		}
	}
	err := c.TokenError(later)
	if !err.Parked || !err.FirstRefresh || !err.RetryAt.Equal(later.Add(record.Cooldown)) || !err.CredentialsExpireAt.Equal(expires) {
		t.Errorf("got %+v, want it parked at the first refresh, with a try after the cooldown", err)
	}
}

// Which credentials were refused is known by their hash, so other ones are not parked.
func TestOtherCredentialsAreNotParked(t *testing.T) {
	t.Parallel()
	c := connect(t, connector.Definition{RefreshTokenOptional: true})
	c.mustImport(undated("a1", ""))
	c.failAt(now, record.Answer{Class: record.ClassPermanent, Code: record.CodeAccessTokenRejected}, record.Policy{})
	if !c.IsParked() || !c.IsRejected() {
		t.Fatal("not parked")
	}
	c.Credentials.AccessToken = secret.New("a2")
	if c.IsParked() || c.IsRejected() {
		t.Error("another access token is parked too")
	}
}
