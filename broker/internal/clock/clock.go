// Package clock keeps two kinds of time apart: the time of day, which can be wrong and can be
// set, on any machine, and the time that has elapsed on this one.
package clock

import (
	"context"
	"time"
)

// A Clock tells the time and waits.
type Clock interface {
	// Now returns the current time of day, which can be set, and can be wrong.
	Now() time.Time
	// Elapsed returns the time since some fixed moment in the past. It is never set.
	Elapsed() time.Duration
	// Sleep returns nil after d, or ctx's error as soon as ctx is done. It is not affected
	// when the time of day is set.
	Sleep(ctx context.Context, d time.Duration) error
}

// system is the machine's clock.
type system struct {
	begun time.Time // with a monotonic reading
}

// System returns the machine's clock.
func System() Clock { return system{begun: time.Now()} }

// Now implements [Clock].
func (system) Now() time.Time { return time.Now() }

// Elapsed implements [Clock].
func (c system) Elapsed() time.Duration { return time.Since(c.begun) }

// Sleep implements [Clock].
func (system) Sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// An Instant is a point in elapsed time. All that a process measures for itself it measures in
// instants. The zero Instant is long ago.
type Instant int64

// longAgo is how long before the start of a clock the zero Instant is.
const longAgo = 1000 * 24 * time.Hour

// InstantOf returns the current Instant of c.
func InstantOf(c Clock) Instant { return Instant(longAgo + c.Elapsed()) }

// Sub returns the time from earlier to i.
func (i Instant) Sub(earlier Instant) time.Duration { return time.Duration(i - earlier) }

// Add returns the Instant d after i.
func (i Instant) Add(d time.Duration) Instant { return i + Instant(d) }

// IsWithin reports whether less than d has passed between then, an [Instant], and i.
func (i Instant) IsWithin(d time.Duration, then int64) bool { return i.Sub(Instant(then)) < d }

// A Moment is one point in time on both clocks.
type Moment struct {
	Wall time.Time // to compare with times in records, which other clocks may have set
	Mono Instant
}

// MomentOf returns the current Moment of c.
func MomentOf(c Clock) Moment {
	if s, ok := c.(system); ok { // reads both clocks at once; every call asks
		now := time.Now()
		return Moment{now, Instant(longAgo + now.Sub(s.begun))}
	}
	return Moment{c.Now(), InstantOf(c)}
}

// A Watch tells for how long something has not changed, as far as this process has seen. The
// zero Watch has seen the zero value since long ago.
type Watch[T comparable] struct {
	value T
	since Instant
}

// See notes the value as it is now, and returns for how long it has been seen unchanged.
func (w *Watch[T]) See(value T, now Instant) time.Duration {
	if value != w.value {
		w.value, w.since = value, now
	}
	return now.Sub(w.since)
}
