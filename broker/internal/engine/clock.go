package engine

import (
	"context"
	"time"
)

// A Clock is as in package broker.
type Clock interface {
	// Now returns the current time, with a monotonic reading if the clock has one.
	Now() time.Time
	// Sleep returns nil after d, or ctx's error as soon as ctx is done.
	Sleep(ctx context.Context, d time.Duration) error
}

// systemClock is the machine's clock.
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

// isWithin reports whether less than d has passed since then, in Unix nanoseconds. A time
// in the future counts as long ago: if the clock was set back, nothing has to wait until it
// has caught up.
func isWithin(d time.Duration, then int64, now time.Time) bool {
	since := now.UnixNano() - then
	return since >= 0 && since < int64(d)
}

var _ Clock = systemClock{}

// Now returns the time by the engine's clock.
func (e *Engine) Now() time.Time { return e.clock.Now() }
