package engine

import (
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/internal/clock"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// A watchedWait is how long this process has known the wait of a record. The times in the
// record are by the writer's clock, which can be wrong; see the package documentation.
type watchedWait struct {
	retryAt time.Time     // as stored; with wait it identifies the wait
	wait    time.Duration // as stored
	since   clock.Instant
}

// waitLeft returns how long the record's next attempt has to wait, 0 if it may begin.
func (r *Refresher) waitLeft(rec *record.Record, now clock.Moment) time.Duration {
	if rec.Cycle.RetryAt.IsZero() {
		return 0
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return rec.Remaining(now.Wall, r.attempts.wait.watched(rec, now), r.rejections.holds(rec.Generation))
}

// watched returns how long this process has known the record's wait. The caller holds the
// refresher's mu.
func (w *watchedWait) watched(rec *record.Record, now clock.Moment) time.Duration {
	if !w.retryAt.Equal(rec.Cycle.RetryAt) || w.wait != rec.Cycle.Wait {
		*w = watchedWait{rec.Cycle.RetryAt, rec.Cycle.Wait, now.Mono}
	}
	return now.Mono.Sub(w.since)
}

// assess completes the policy for a failure with what only this process knows.
func (r *Refresher) assess(policy *record.Policy, held *heldLease, now clock.Moment) {
	r.mu.Lock()
	defer r.mu.Unlock()
	policy.Watched = r.attempts.wait.watched(held.rec, now)
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
