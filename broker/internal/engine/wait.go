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
	w := &r.attempts.wait
	if !w.retryAt.Equal(rec.Cycle.RetryAt) || w.wait != rec.Cycle.Wait {
		*w = watchedWait{rec.Cycle.RetryAt, rec.Cycle.Wait, now.Mono}
	}
	return rec.Cycle.Remaining(now.Wall, now.Mono.Sub(w.since), r.rejections.holds(rec.Generation))
}

// tokenError is [record.Record.TokenError] with the wait as this process sees it.
func (r *Refresher) tokenError(rec *record.Record, now clock.Moment) *record.TokenError {
	err := rec.TokenError(now.Wall)
	if left := now.Wall.Add(r.waitLeft(rec, now)); !err.Parked && err.RetryAt.After(left) {
		err.RetryAt = left
	}
	return err
}
