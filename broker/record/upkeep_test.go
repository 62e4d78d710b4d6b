package record_test

import (
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

func TestNeglectedConnections(t *testing.T) {
	t.Parallel()
	const month = 30 * 24 * time.Hour
	for name, test := range map[string]struct {
		do   func(*connection)
		want bool
	}{
		"healthy":               {func(*connection) {}, false},
		"queued":                {func(c *connection) { c.Cycle.Queued = true }, true},
		"queued for later":      {func(c *connection) { c.Cycle.Queued, c.Cycle.RetryAt = true, now.Add(1) }, false},
		"being retried":         {func(c *connection) { c.fail(record.ClassTransient); c.Cycle.RetryAt = now }, true},
		"idle":                  {func(c *connection) { c.Credentials.IssuedAt = now.Add(-month*3/4 - 1) }, true},
		"nearly idle":           {func(c *connection) { c.Credentials.IssuedAt = now.Add(-month * 3 / 4) }, false},
		"idle since creation":   {func(c *connection) { c.Credentials.IssuedAt, c.CreatedAt = time.Time{}, now.Add(-month) }, true},
		"idle, switched off":    {func(c *connection) { c.Credentials.IssuedAt, c.Enabled = now.Add(-month), false }, false},
		"idle, parked":          {func(c *connection) { c.Credentials.IssuedAt = now.Add(-month); c.fail(record.ClassPermanent) }, false},
		"without credentials":   {func(c *connection) { c.Credentials, c.Cycle.Queued = nil, true }, false},
		"without refresh token": {func(c *connection) { c.Credentials = &record.Credentials{IssuedAt: now.Add(-month)} }, false},
	} {
		c := connect(t, connector.Definition{KeepAlive: month})
		c.mustImport(tokens("a1", "r1", 0))
		test.do(c)
		if got := c.IsNeglected(c.conn, now); got != test.want {
			t.Errorf("%s: got %v, want %v", name, got, test.want)
		}
	}
}

func TestIdleConnections(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	ranOut := func(ago time.Duration) func(*connection) {
		return func(c *connection) { c.Credentials.Expiry = now.Add(-ago) }
	}
	after := func(change func(*connection)) func(*connection) {
		return func(c *connection) { ranOut(day)(c); change(c) }
	}
	for name, test := range map[string]struct {
		do   func(*connection)
		want bool
	}{
		"valid":            {func(*connection) {}, false},
		"a day ago":        {ranOut(day), true},
		"nearly a day ago": {ranOut(day - 1), false},
		"unknown expiry, as long as the last one": {func(c *connection) {
			c.Credentials.Expiry, c.Credentials.Lifetime, c.Credentials.IssuedAt = time.Time{}, 8*time.Hour, now.Add(-8*time.Hour-day)
		}, true},
		"unknown expiry, not as long as the last one": {func(c *connection) {
			c.Credentials.Expiry, c.Credentials.Lifetime, c.Credentials.IssuedAt = time.Time{}, 8*time.Hour, now.Add(-8*time.Hour-day+1)
		}, false},
		"unknown lifetime": {func(c *connection) {
			c.Credentials.Expiry, c.Credentials.Lifetime, c.Credentials.IssuedAt = time.Time{}, 0, now.Add(-record.UnknownLifetime-day)
		}, true},
		"nothing is known": {func(c *connection) {
			c.Credentials.Expiry, c.Credentials.IssuedAt = time.Time{}, time.Time{}
		}, false},
		"failed a day ago":      {after(func(c *connection) { c.Cycle.Phase, c.Cycle.FailedAt = record.PhaseFailed, now.Add(-day) }), true},
		"failed since":          {after(func(c *connection) { c.Cycle.Phase, c.Cycle.FailedAt = record.PhaseFailed, now.Add(1-day) }), false},
		"failed in the future":  {after(func(c *connection) { c.Cycle.Phase, c.Cycle.FailedAt = record.PhaseFailed, now.Add(day) }), true},
		"switched off":          {after(func(c *connection) { c.Enabled = false }), false},
		"parked":                {after(func(c *connection) { c.fail(record.ClassPermanent); c.Cycle.FailedAt = time.Time{} }), false},
		"needs authorisation":   {after(func(c *connection) { c.Cycle.NeedsAuth = true }), false},
		"deleted":               {after(func(c *connection) { c.Deleted = now }), false},
		"without credentials":   {func(c *connection) { c.Credentials = nil }, false},
		"without refresh token": {after(func(c *connection) { c.Credentials.RefreshToken = secret.String{} }), false},
	} {
		c := connect(t, connector.Definition{})
		c.mustImport(tokens("a1", "r1", 0))
		test.do(c)
		if got := c.IsIdle(c.conn, day, now); got != test.want {
			t.Errorf("%s: got %v, want %v", name, got, test.want)
		}
		if c.IsIdle(c.conn, 0, now.Add(1000*day)) {
			t.Errorf("%s: idle although that is off", name)
		}
	}
}

func TestRetentionEndsForParkedConnections(t *testing.T) {
	t.Parallel()
	c := connect(t, connector.Definition{})
	c.mustImport(tokens("a1", "r1", 2*time.Hour))
	c.fail(record.ClassPermanent)
	if end := now.Add(retention); c.RetentionEnded(end.Add(-1)) || !c.RetentionEnded(end) {
		t.Error("the retention does not end when it should")
	}
	if c.RetentionWatched(retention-1) || !c.RetentionWatched(retention) {
		t.Error("the retention does not end for a process that has watched it")
	}
	c.Credentials.RefreshToken = secret.New("r2")
	if c.RetentionEnded(now.Add(2 * retention)) {
		t.Error("other credentials are cleared too")
	}
}

// Replicas whose clocks differ by less than an hour agree on which tombstones may be gone.
func TestTombstonesArePurgedAfterADay(t *testing.T) {
	t.Parallel()
	tombstone := &record.Record{Key: acme, Deleted: now}
	for age, want := range map[time.Duration][2]bool{
		25 * time.Hour: {false, false}, 25*time.Hour + 1: {true, false}, 26 * time.Hour: {true, false}, 26*time.Hour + 1: {true, true},
	} {
		at := now.Add(age)
		if got := [2]bool{tombstone.IsPurgeable(at), tombstone.WasPurged(at)}; got != want {
			t.Errorf("after %v: purgeable and purged are %v, want %v", age, got, want)
		}
	}
	if alive := record.New(acme, nil, now); alive.IsPurgeable(now.Add(1000*time.Hour)) || alive.WasPurged(now.Add(1000*time.Hour)) {
		t.Error("a connection that exists is purged")
	}
}
