package clock_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/internal/clock"
)

func TestAlarmGoesOffOnceAtTheEarliestTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var alarm clock.Alarm
		var rung []time.Duration
		sys := clock.System()
		begun := clock.InstantOf(sys)
		run := func(work func(context.Context)) bool { go work(t.Context()); return true }
		set := func(in time.Duration) {
			mu.Lock()
			defer mu.Unlock()
			now := clock.InstantOf(sys)
			alarm.SetAhead(sys, run, &mu, now, now.Add(in), func() {
				mu.Lock() // it is not held
				defer mu.Unlock()
				rung = append(rung, clock.InstantOf(sys).Sub(begun))
			})
		}
		set(time.Hour)
		set(time.Minute)
		set(2 * time.Minute)
		isSet := func() bool {
			mu.Lock()
			defer mu.Unlock()
			return alarm.IsSet()
		}
		if !isSet() {
			t.Error("it is not set")
		}
		time.Sleep(3 * time.Hour)
		set(time.Second) // it can be set again
		set(-time.Second)
		time.Sleep(time.Hour)
		synctest.Wait()
		if isSet() {
			t.Error("it is set after it went off")
		}
		mu.Lock()
		defer mu.Unlock()
		if len(rung) != 2 || rung[0] != time.Minute || rung[1] != 3*time.Hour {
			t.Errorf("it went off after %v, want a minute and 3 hours", rung)
		}
	})
}

func TestAlarmEndsWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var alarm clock.Alarm
		ctx, cancel := context.WithCancel(t.Context())
		mu.Lock()
		alarm.SetAhead(clock.System(), func(work func(context.Context)) bool { go work(ctx); return true }, &mu, 0, clock.Instant(time.Hour), func() {
			t.Error("it went off")
		})
		mu.Unlock()
		cancel()
		time.Sleep(2 * time.Hour)
	})
}
