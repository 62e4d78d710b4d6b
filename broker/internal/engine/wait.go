package engine

import (
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/internal/clock"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// A waitID identifies the wait of a record. A process watches for how long it has known it: the
// times in the record are by the writer's clock, which can be wrong; see the package documentation.
type waitID struct {
	retryAt int64 // nanoseconds of Unix time, as stored
	wait    time.Duration
}

func waitOf(rec *record.Record) waitID { return waitID{rec.Cycle.RetryAt.UnixNano(), rec.Cycle.Wait} }

// waitLeft returns how long the record's next attempt has to wait, 0 if it may begin.
func (r *Refresher) waitLeft(rec *record.Record, now clock.Moment) time.Duration {
	if rec.Cycle.RetryAt.IsZero() {
		return 0
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return rec.Remaining(now.Wall, r.attempts.wait.See(waitOf(rec), now.Mono), r.rejections.holds(rec.Generation))
}

// assess completes the policy for a failure with what only this process knows.
func (r *Refresher) assess(policy *record.Policy, held *heldLease, now clock.Moment) {
	r.mu.Lock()
	defer r.mu.Unlock()
	policy.Watched = r.attempts.wait.See(waitOf(held.rec), now.Mono)
	policy.Rejected = r.rejections.holds(held.rec.Generation)
	policy.Ahead = held.snap.servable(now) && !policy.Rejected
}

// tokenError is [record.Record.TokenError] with the wait as this process sees it.
func (r *Refresher) tokenError(rec *record.Record, now clock.Moment) *record.TokenError {
	err := rec.TokenError(now.Wall)
	if left := now.Wall.Add(r.waitLeft(rec, now)); !err.Parked && err.RetryAt.After(left) {
		err.RetryAt = left
	}
	return err
}
