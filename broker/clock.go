package broker

import (
	"context"
	"time"
)

// A Clock tells the time and waits. [systemClock] is the real one.
type Clock interface {
	// Now returns the current time, with a monotonic reading where there is one.
	Now() time.Time
	// Sleep returns nil after d, or ctx's error as soon as that is done.
	Sleep(ctx context.Context, d time.Duration) error
}

// systemClock is the clock of the machine.
type systemClock struct{}

// Now implements [Clock].
func (systemClock) Now() time.Time { return time.Now() }

// Sleep implements [Clock].
func (systemClock) Sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// isWithin reports whether less than d has gone by since then, Unix nanoseconds. If the
// clock was set back, that is long ago: nothing is to wait for as long as that was.
func isWithin(d time.Duration, then int64, now time.Time) bool {
	since := now.UnixNano() - then
	return since >= 0 && since < int64(d)
}

var _ Clock = systemClock{}
