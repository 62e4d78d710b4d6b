package webhook

import (
	"math/rand/v2"
	"time"
)

// The schedule of attempts. The Apideck API documents these gaps, a maximum of 9 attempts,
// and a lifetime of 24 hours. They agree if the gaps are those between attempts: the ninth
// attempt comes 15 h 48 min after the first, and the last gap would lead past the 24 hours.
const (
	maxAttempts    = 9
	timeToLive     = 24 * time.Hour
	attemptTimeout = 60 * time.Second
	maxRetryAfter  = 12 * time.Hour
)

var gaps = [...]time.Duration{
	3 * time.Minute, 5 * time.Minute, 10 * time.Minute, 30 * time.Minute,
	time.Hour, 2 * time.Hour, 4 * time.Hour, 8 * time.Hour, 12 * time.Hour,
}

// nextAttempt returns how long to wait after the given attempt failed, false if it was the
// last. age is the time since the event was emitted. Up to a tenth is added at random, so that
// deliveries that failed together are not retried together.
func nextAttempt(attempt int, age, retryAfter time.Duration) (time.Duration, bool) {
	if attempt >= maxAttempts {
		return 0, false
	}
	wait := gaps[attempt-1]
	wait += rand.N(wait / 10)
	wait = max(wait, min(retryAfter, maxRetryAfter))
	return wait, age+wait < timeToLive
}
