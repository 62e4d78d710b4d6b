package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tokenbroker/caddy-token-broker/tests/stats"
)

// A call is a call that has ended.
type call struct {
	start   time.Time
	took    time.Duration
	outcome string // the status, or the kind of error
	held    bool   // the broker held a valid token when the call started
	used    bool   // and had used that one before
}

// A tally is a number of calls.
type tally struct {
	begun time.Time

	mu    sync.Mutex // guards calls
	calls []call
}

func (t *tally) add(c call) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.calls = append(t.calls, c)
}

// counts are the numbers of calls, by how they ended.
type counts struct {
	all, good int
	held      int // calls for which the broker held a valid token at the start
	broken    int // of these, how many failed all the same
	brokenOld int // of these, how many although that token had been used before
}

// failed returns the number of calls that failed.
func (c counts) failed() int { return c.all - c.good }

func (t *tally) count() (n counts) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range t.calls {
		n.all++
		if c.held {
			n.held++
		}
		switch {
		case c.outcome == success:
			n.good++
		case c.held && c.used:
			n.brokenOld++
			fallthrough
		case c.held:
			n.broken++
		}
	}
	return n
}

// latency returns percentiles of the time that calls took, failed ones included.
func (t *tally) latency(shares ...float64) []time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	took := make([]time.Duration, len(t.calls))
	for i, c := range t.calls {
		took[i] = c.took
	}
	slices.Sort(took)
	values := make([]time.Duration, len(shares))
	for i, share := range shares {
		values[i] = stats.Percentile(took, share)
	}
	return values
}

// recovery returns when service was full again, counted from the beginning of the tally: after
// the start of the last call that failed. It reports false if that was less than two seconds
// before the start of the last call of all.
func (t *tally) recovery() (time.Duration, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	const proof = 2 * time.Second
	var last, lastFailed time.Time
	for _, c := range t.calls {
		if c.start.After(last) {
			last = c.start
		}
		if c.outcome != success && c.start.After(lastFailed) {
			lastFailed = c.start
		}
	}
	if lastFailed.IsZero() {
		return 0, len(t.calls) > 0
	}
	return lastFailed.Sub(t.begun), last.Sub(lastFailed) >= proof
}

// failures lists the outcomes of the calls that failed, the most frequent first: "503: 12, timeout: 3".
func (t *tally) failures() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	outcomes := make(map[string]int)
	for _, c := range t.calls {
		if c.outcome != success {
			outcomes[c.outcome]++
		}
	}
	names := slices.SortedFunc(maps.Keys(outcomes), func(a, b string) int {
		return cmp.Or(cmp.Compare(outcomes[b], outcomes[a]), cmp.Compare(a, b))
	})
	for i, name := range names {
		names[i] = fmt.Sprintf("%s: %d", name, outcomes[name])
	}
	return strings.Join(names, ", ")
}
