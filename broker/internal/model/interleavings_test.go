package model

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

var (
	seedsFlag = flag.Int("seeds", 300, "how many random runs TestRandomInterleavingsKeepTheRules makes")
	seedFlag  = flag.Int64("seed", -1, "the one seed that TestRandomInterleavingsKeepTheRules repeats -seeds times; -1: a new one for each run")
	firstFlag = flag.Int64("first-seed", 0, "the first of the seeds of TestRandomInterleavingsKeepTheRules")
)

// TestRandomInterleavingsKeepTheRules lets replicas that share a store refresh, import
// and delete while they are paused and killed, their stores fail, and the token
// endpoint loses answers. What they send and save is checked as it happens against
// what a refresh must never do; when all is mended, every connection that the
// provider would still accept must work, on every replica, and nothing may be left.
//
// Time is virtual. A seed decides what is done to the replicas, but not how their
// goroutines are scheduled, nor their jitter: a failure may take some repetitions.
func TestRandomInterleavingsKeepTheRules(t *testing.T) {
	t.Parallel()
	for i := range *seedsFlag {
		seed := uint64(*firstFlag) + uint64(i)
		name := strconv.FormatUint(seed, 10)
		if *seedFlag >= 0 {
			seed = uint64(*seedFlag)
			name = fmt.Sprintf("%d#%d", seed, i)
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(seed)
				w.live(rand.New(rand.NewPCG(seed, 1)))
				if faults, trace := w.report(); faults != "" {
					t.Errorf("seed %d, %s:\n%s\nrerun: go test ./broker/internal/model -run TestRandomInterleavings -seed %d -seeds 20\n%s",
						seed, w.provider, faults, seed, trace)
				}
			})
		})
	}
}

// operationsPerRun keeps a run so small that thousands fit in a minute.
const operationsPerRun = 40

// live is the whole of a run: trouble, recovery, and the end of every process.
func (w *world) live(rng *rand.Rand) {
	for range operationsPerRun {
		w.operate(rng)
		time.Sleep(gap(rng))
	}
	w.heal()
	w.demand()
	w.verify()
	w.end()
}

// gap draws the time between two operations: mostly they come on top of each other,
// now and then tokens expire in between.
func gap(rng *rand.Rand) time.Duration {
	switch n := rng.IntN(20); {
	case n < 8:
		return between(rng, 0, 500*time.Millisecond)
	case n < 13:
		return between(rng, 500*time.Millisecond, 10*time.Second)
	case n < 17:
		return between(rng, 10*time.Second, 90*time.Second)
	default:
		return between(rng, 2*time.Minute, 15*time.Minute)
	}
}

func between(rng *rand.Rand, low, high time.Duration) time.Duration {
	return low + time.Duration(rng.Int64N(int64(high-low)))
}

// report returns what was violated, and what had happened.
func (w *world) report() (faults, trace string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.violations, "\n"), strings.Join(w.lines, "\n")
}
