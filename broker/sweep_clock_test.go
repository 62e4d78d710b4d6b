package broker_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

const day = 24 * time.Hour

// withWrongClock runs a test in virtual time, with a broker whose wall clock can be set.
func withWrongClock(t *testing.T, test func(t *testing.T, h *harness, set func(ahead time.Duration))) {
	t.Helper()
	virtually(t, func(t *testing.T, h *harness) {
		test(t, h, h.useClock().set)
	})
}

// park imports a connection whose grant is gone, and returns when it was parked.
func (h *harness) park() time.Time {
	h.t.Helper()
	h.mustImport("a1", "r1", issued(3*day))
	synctest.Wait()
	if !h.record(h.key).IsParked() {
		h.t.Fatal("the connection is not parked")
	}
	return time.Now()
}

// aSweep waits for the end of one more sweep.
func (h *harness) aSweep() {
	h.t.Helper()
	before := len(h.logLines("sweep finished"))
	h.waitFor("a sweep", 2*firstSweep, func() bool { return len(h.logLines("sweep finished")) > before })
}

func (h *harness) isCleared() bool { return h.record(h.key).Credentials == nil }

// A clock that is ahead during one sweep costs no connection its credentials.
func TestRetentionDoesNotEndBecauseOfOneLookAtTheClock(t *testing.T) {
	t.Parallel()
	withWrongClock(t, func(t *testing.T, h *harness, set func(time.Duration)) {
		parked := h.park()
		time.Sleep(30 * time.Hour)
		for range 3 {
			set(day)
			h.aSweep()
			set(0)
			h.aSweep()
		}
		if h.isCleared() {
			t.Fatal("the credentials were cleared")
		}
		h.waitFor("the end of the retention", 20*time.Hour, h.isCleared)
		if got := time.Since(parked); got < 48*time.Hour || got > 48*time.Hour+3*firstSweep {
			t.Errorf("the credentials were cleared after %v, want 48h", got)
		}
	})
}

// Whether the clock goes back after the refusal, or was ahead during it: the process has
// watched the connection for the whole retention, and knows better.
func TestRetentionEndsByElapsedTimeToo(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ before, after time.Duration }{
		"the clock goes back by a day": {0, -day},
		"the clock was ahead by a day": {day, 0},
		"the clock is right":           {0, 0},
		"the clock is always ahead":    {day, day},
		"the clock is always behind":   {-day, -day},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			withWrongClock(t, func(t *testing.T, h *harness, set func(time.Duration)) {
				set(test.before)
				parked := h.park()
				set(test.after)
				h.waitFor("the end of the retention", 3*day, h.isCleared)
				if got := time.Since(parked); got < 48*time.Hour || got > 48*time.Hour+3*firstSweep {
					t.Errorf("the credentials were cleared after %v, want 48h", got)
				}
			})
		})
	}
}

func TestWatchedRetentionBeginsAgainWithOtherCredentials(t *testing.T) {
	t.Parallel()
	withWrongClock(t, func(t *testing.T, h *harness, set func(time.Duration)) {
		h.park()
		set(-3 * day) // only elapsed time can end the retention
		time.Sleep(47 * time.Hour)
		h.mustImport("a2", "r2", issued(2*time.Hour))
		synctest.Wait()
		time.Sleep(47 * time.Hour)
		if h.isCleared() {
			t.Error("the credentials were cleared")
		}
	})
}

// A clock that is ahead during one sweep removes no tombstone.
func TestTombstoneIsNotRemovedBecauseOfOneLookAtTheClock(t *testing.T) {
	t.Parallel()
	withWrongClock(t, func(t *testing.T, h *harness, set func(time.Duration)) {
		h.mustImport("a1", "r1", issued(0))
		if err := h.Delete(t.Context(), h.key); err != nil {
			t.Fatal(err)
		}
		deleted := time.Now()
		set(2 * day)
		h.aSweep()
		set(0)
		h.aSweep()
		if !h.record(h.key).IsTombstone() {
			t.Fatal("no tombstone")
		}
		h.waitFor("the removal", 27*time.Hour, func() bool {
			_, _, err := h.store.Load(t.Context(), h.key)
			return errors.Is(err, record.ErrNotFound)
		})
		if got := time.Since(deleted); got < 25*time.Hour {
			t.Errorf("the tombstone was removed after %v, want 25h", got)
		}
	})
}
