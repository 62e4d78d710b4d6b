package main

import (
	"testing"
	"time"
)

func TestPerSecondFindsTheBusiestSecond(t *testing.T) {
	t.Parallel()
	var p perSecond
	start := time.Now()
	for _, milliseconds := range []int{0, 900, 1000, 1100, 1999, 4500} {
		p.add(start.Add(time.Duration(milliseconds) * time.Millisecond))
	}
	if got := p.peak(); got != 3 {
		t.Errorf("peak = %d, want 3", got)
	}
	for share, want := range map[float64][2]int{0.3: {2, 1}, 0.8: {5, 2}, 1: {6, 5}} {
		if events, seconds := p.until(share); events != want[0] || seconds != want[1] {
			t.Errorf("until(%v) = %d, %d; want %v", share, events, seconds, want)
		}
	}
	p.reset()
	if events, seconds := p.until(1); events != 0 || seconds != 0 || p.peak() != 0 {
		t.Errorf("after reset: %d events, %d seconds, peak %d; want 0", events, seconds, p.peak())
	}
}

func TestLevelRemembersItsPeak(t *testing.T) {
	t.Parallel()
	var l level
	l.enter()
	l.enter()
	l.leave()
	if got := l.peak(); got != 2 {
		t.Errorf("peak = %d, want 2", got)
	}
	if got := l.peak(); got != 1 {
		t.Errorf("peak since = %d, want 1: one has not left", got)
	}
}
