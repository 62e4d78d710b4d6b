package clock_test

import (
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/internal/clock"
)

func TestWatchTellsForHowLongAValueIsTheSame(t *testing.T) {
	t.Parallel()
	var w clock.Watch[string]
	begun := clock.InstantOf(clock.System())
	for _, see := range []struct {
		value    string
		at, want time.Duration
	}{
		{"a", 0, 0},
		{"a", time.Minute, time.Minute},
		{"a", time.Hour, time.Hour},
		{"b", 2 * time.Hour, 0},
		{"b", 3 * time.Hour, time.Hour},
		{"a", 4 * time.Hour, 0},
	} {
		if got := w.See(see.value, begun.Add(see.at)); got != see.want {
			t.Errorf("%q after %v: seen for %v, want %v", see.value, see.at, got, see.want)
		}
	}
}
