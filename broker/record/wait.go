package record

import "time"

// Wall clocks can be wrong and can be set, on any replica. A record therefore stores what
// was decided, a duration, beside the time by the writer's clock, and a reader never waits
// longer than that duration by its own monotonic clock.

// maxOverrun bounds the time that an attempt takes beyond its wait. A larger difference
// between two attempts means that a clock was set, or that no process was running.
const maxOverrun = time.Minute

// maxUnknownWait bounds the wait of a record whose writer stored no duration.
const maxUnknownWait = maxBackoff

// MaxWait is the longest wait between two attempts of a connection whose access token is not
// valid.
const MaxWait = time.Hour

// waitUntil plans the next attempt.
func (c *Cycle) waitUntil(now time.Time, wait time.Duration) {
	c.RetryAt, c.Wait, c.RejectedWait = now.Add(wait), wait, 0
}

// stopWaiting lets the next attempt begin at any time.
func (c *Cycle) stopWaiting() { c.RetryAt, c.Wait, c.RejectedWait = time.Time{}, 0, 0 }

// decidedAt returns when the wait was decided, by the writer's clock.
func (c *Cycle) decidedAt() time.Time { return c.RetryAt.Add(-c.wait()) }

// wait returns how long after its decision the next attempt may follow.
func (c *Cycle) wait() time.Duration {
	switch {
	case c.RetryAt.IsZero():
		return 0
	case c.Wait > 0:
		return c.Wait
	case c.FailedAt.IsZero() || c.FailedAt.After(c.RetryAt):
		return maxUnknownWait
	default:
		return c.RetryAt.Sub(c.FailedAt)
	}
}

// Remaining returns how long to wait before the next attempt, 0 if it may begin. now is the
// reader's wall clock; watched is how long the reader has known this wait, by its monotonic
// clock. The wait is over as soon as either says so; one that spares the grant not while the
// access token is valid by the reader's wall clock, since replicas' clocks differ. rejected says
// that downstream has refused the access token: a wait that only suits a valid token is then
// shortened.
func (r *Record) Remaining(now time.Time, watched time.Duration, rejected bool) time.Duration {
	c := &r.Cycle
	wait, left := c.wait(), c.RetryAt.Sub(now)
	switch {
	case rejected && c.RejectedWait > 0:
		wait, left = c.RejectedWait, left-(wait-c.RejectedWait)
	case !rejected && c.SparesGrant():
		left = max(left, r.Credentials.validFor(now))
	}
	return max(0, min(left, wait-watched))
}

// SparesGrant reports whether the wait keeps a refresh token that may be spent from being sent
// while the access token works.
func (c *Cycle) SparesGrant() bool { return c.Class == ClassAmbiguous && c.RejectedWait > 0 }

// isDue reports whether the next attempt may begin, to a reader that has not watched the
// wait. A wait that was decided in the future tells nothing, and counts as over.
func (r *Record) isDue(now time.Time) bool {
	c := &r.Cycle
	if c.SparesGrant() && r.Credentials.isPlausiblyValid(now) {
		return false
	}
	return !now.Before(c.RetryAt) || now.Before(c.decidedAt())
}

// isPlausiblyValid reports whether the access token is valid by the reader's clock. A token that
// would still be valid for twice its lifetime says that a clock was wrong, and nothing else.
func (c *Credentials) isPlausiblyValid(now time.Time) bool {
	if c == nil || c.Expiry.IsZero() {
		return false
	}
	left := c.Expiry.Sub(now)
	return left > 0 && (c.IssuedAt.IsZero() || left < 2*c.Expiry.Sub(c.IssuedAt))
}

// rebase moves the cycle's deadlines if a clock was set since the last attempt was planned,
// so that the cycle lasts as long as it was to last. The attempt comes soon after its wait
// unless this process has watched for longer, because other connections went first.
func (c *Cycle) rebase(now time.Time, watched time.Duration) {
	if c.RetryAt.IsZero() {
		return
	}
	passed := now.Sub(c.decidedAt())
	if c.Phase == PhaseFailed && !c.NeedsAuth && passed > 0 {
		return // the job has given up, and does not begin again
	}
	counted := max(watched, min(passed, c.wait()+maxOverrun))
	if !c.GiveUpAt.IsZero() {
		c.GiveUpAt = c.GiveUpAt.Add(passed - counted)
	}
	if !c.RefusedSince.IsZero() {
		c.RefusedSince = c.RefusedSince.Add(passed - counted)
	}
}
