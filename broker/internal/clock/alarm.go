package clock

import (
	"context"
	"sync"
)

// An Alarm calls a function once, when its time comes. The zero Alarm is not set.
type Alarm struct {
	at     Instant
	cancel context.CancelFunc // nil: it is not set
}

// IsSet reports whether the alarm will go off. The caller holds the lock that guards it.
func (a *Alarm) IsSet() bool { return a.cancel != nil }

// At returns when the alarm goes off, if it is set. The caller holds the lock that guards it.
func (a *Alarm) At() (at Instant, isSet bool) { return a.at, a.IsSet() }

// Stop keeps the alarm from going off. The caller holds the lock that guards it.
func (a *Alarm) Stop() {
	if a.cancel != nil {
		a.cancel()
		a.cancel = nil
	}
}

// SetAhead sets the alarm to a time, unless it is set to an earlier one. run runs work in a
// goroutine until its ctx ends, or reports false if no work begins any longer. The caller holds
// mu, which guards the alarm; ring is called without it.
func (a *Alarm) SetAhead(c Clock, run func(work func(ctx context.Context)) bool, mu sync.Locker, now, at Instant, ring func()) {
	if a.IsSet() && a.at <= at {
		return
	}
	a.Stop()
	replaced, cancel := context.WithCancel(context.Background())
	a.at, a.cancel = at, cancel
	if !run(func(ctx context.Context) {
		defer cancel()
		ctx, end := context.WithCancel(ctx)
		defer end()
		defer context.AfterFunc(replaced, end)()
		if c.Sleep(ctx, max(0, at.Sub(now))) == nil && a.goesOff(replaced, mu) {
			ring()
		}
	}) {
		a.Stop()
	}
}

// goesOff reports whether the alarm was neither set to another time nor stopped. It is no longer
// set then.
func (a *Alarm) goesOff(replaced context.Context, mu sync.Locker) bool {
	mu.Lock()
	defer mu.Unlock()
	if replaced.Err() != nil {
		return false
	}
	a.cancel = nil
	return true
}
