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
	seedsFlag = flag.Int("seeds", 300, "number of random runs of TestRandomInterleavingsKeepTheRules")
	seedFlag  = flag.Int64("seed", -1, "seed that TestRandomInterleavingsKeepTheRules repeats -seeds times; -1: another one for each run")
	firstFlag = flag.Int64("first-seed", 0, "first seed of TestRandomInterleavingsKeepTheRules")
)

// TestRandomInterleavingsKeepTheRules lets replicas that share a store refresh, import
// and delete while they are paused and killed, their stores fail, and the token
// endpoint loses answers. Each request and each save is checked at once against what a
// refresh must never do. After all trouble has ended, every connection that the provider
// still accepts must work on every replica, and no journal may hold an entry.
//
// Time is virtual. A seed decides what happens to the replicas, but neither how their
// goroutines are scheduled nor their jitter: a failure may take some repetitions.
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

// operationsPerRun is small, so that thousands of runs fit in a minute.
const operationsPerRun = 40

// live makes one run: trouble, recovery, and the end of every process.
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

// gap draws the time between two operations. Mostly they overlap; now and then tokens
// expire in between.
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

// report returns the violations, and the trace of the run.
func (w *world) report() (faults, trace string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.violations, "\n"), strings.Join(w.lines, "\n")
}
