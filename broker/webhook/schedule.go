package webhook

import (
	"math/rand/v2"
	"time"
)

// When attempts are made. The Vault API's documentation gives these gaps, at most 9
// attempts, and 24 hours to live. As gaps between attempts they fit together: the
// ninth attempt comes 15 h 48 min after the first, and the last gap would lead past
// the 24 hours.
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

// nextAttempt returns how long to wait after the given attempt failed, age after the
// first began; false if it was the last. Up to a tenth is added at random so that
// what failed together is not tried together.
func nextAttempt(attempt int, age, retryAfter time.Duration) (time.Duration, bool) {
	if attempt >= maxAttempts {
		return 0, false
	}
	wait := gaps[attempt-1]
	wait += rand.N(wait / 10)
	wait = max(wait, min(retryAfter, maxRetryAfter))
	return wait, age+wait < timeToLive
}
