package main

import (
	"testing"
	"time"
)

// tallyOf returns a tally of calls that start one second after another, by their outcome: "+" is
// a good one, "-" a failed one, "!" a failed one with a token that was held, "?" one with a token
// that was used before.
func tallyOf(outcomes string) *tally {
	t := &tally{begun: time.Now()}
	for i, outcome := range outcomes {
		c := call{start: t.begun.Add(time.Duration(i) * time.Second), took: time.Duration(i) * time.Millisecond, outcome: "503"}
		switch outcome {
		case '+':
			c.outcome, c.held, c.used = success, true, true
		case '!':
			c.held = true
		case '?':
			c.held, c.used = true, true
		}
		t.add(c)
	}
	return t
}

func TestTallyTellsFailuresDespiteAValidTokenApart(t *testing.T) {
	t.Parallel()
	got := tallyOf("++-!?-").count()
	if want := (counts{all: 6, good: 2, held: 4, broken: 2, brokenOld: 1}); got != want {
		t.Errorf("count = %+v, want %+v", got, want)
	}
	if got.failed() != 4 {
		t.Errorf("failed = %d, want 4", got.failed())
	}
}

func TestRecoveryIsTheStartOfTheLastFailure(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		outcomes string
		want     time.Duration
		ok       bool
	}{
		{"++++", 0, true},
		{"--++++", time.Second, true},
		{"+-+-+++", 3 * time.Second, true},
		{"---", 2 * time.Second, false},
		{"---+", 2 * time.Second, false}, // one second proves nothing
		{"", 0, false},
	} {
		if got, ok := tallyOf(tt.outcomes).recovery(); got != tt.want || ok != tt.ok {
			t.Errorf("recovery of %q = %v, %t; want %v, %t", tt.outcomes, got, ok, tt.want, tt.ok)
		}
	}
}

func TestLatencyAndFailuresOfATally(t *testing.T) {
	t.Parallel()
	calls := tallyOf("++-+")
	calls.add(call{outcome: "timeout"})
	calls.add(call{outcome: "503"})
	if got, want := calls.failures(), "503: 2, timeout: 1"; got != want {
		t.Errorf("failures = %q, want %q", got, want)
	}
	if got := calls.latency(0.5, 1); got[0] != 0 || got[1] != 3*time.Millisecond {
		t.Errorf("latency = %v, want 0 and 3 ms", got)
	}
}
