package main

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tokenbroker/caddy-token-broker/tests/stats"
)

// inParallel is how many operations on a store are in progress at a time.
const inParallel = 32

// A side does operations on a store, with or without the broker.
type side struct {
	do   func(ctx context.Context, i int) error
	next *atomic.Int64 // the number of the next operation
	of   func() int    // how many numbers there are, which are then reused; nil: any

	inParallel int // operations in progress at a time; 0: inParallel
}

// A versus compares the sides of an operation.
type versus struct {
	name        string
	broker, raw side
	hop         side          // hop.do is nil if there is none
	wait        time.Duration // before the first turn
}

// sides returns the sides that there are, in the order of their turns.
func (v *versus) sides() []*side {
	sides := []*side{&v.broker, &v.raw}
	if v.hop.do != nil {
		sides = append(sides, &v.hop)
	}
	return sides
}

// The indexes of sides.
const (
	brokerSide = iota
	rawSide
	hopSide
)

// sideNames are the names of the sides.
var sideNames = [...]string{brokerSide: "broker", rawSide: "raw", hopSide: "hop"}

// A bout says how to compare.
type bout struct {
	turns  int
	length time.Duration // of a turn
	broker int           // process id
	hop    int           // process id; 0: there is none
	store  int           // process id; 0: the store has no process of its own
}

// run gives the sides turns and prints the results.
func (b *bout) run(ctx context.Context, v *versus) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(v.wait):
	}
	sides := v.sides()
	for i := range sides {
		if _, err := b.take(ctx, v, i, b.length/4); err != nil {
			return err
		}
	}
	turns := make([][]*turn, len(sides))
	if err := inTurns(b.turns, len(sides), func(i int) error {
		t, err := b.take(ctx, v, i, b.length)
		turns[i] = append(turns[i], t)
		return err
	}); err != nil {
		return err
	}
	fmt.Print(b.result(v.name, turns[brokerSide], turns[rawSide]))
	if len(sides) > hopSide {
		fmt.Print(b.result(hopName, turns[hopSide], turns[rawSide]))
	}
	return nil
}

// take gives a side a turn.
func (b *bout) take(ctx context.Context, v *versus, i int, length time.Duration) (*turn, error) {
	process := b.broker
	if i == hopSide {
		process = b.hop
	}
	t, err := measured(process, b.store, func() (int, error) { return v.sides()[i].work(ctx, time.Now().Add(length)) })
	if err != nil {
		return nil, fmt.Errorf("%s, %s: %w", v.name, sideNames[i], err)
	}
	return t, nil
}

// measured measures do, which returns a number of requests. The processes are those of the
// contestant and of the store; 0: there is none.
func measured(process, store int, do func() (int, error)) (*turn, error) {
	processes := [2]int{process, store}
	before, err := cpuOf(processes)
	if err != nil {
		return nil, err
	}
	t := &turn{}
	start := time.Now()
	t.requests, err = do()
	t.elapsed = time.Since(start)
	if err != nil {
		return nil, err
	}
	after, err := cpuOf(processes)
	t.cpu, t.storeCPU = after[0]-before[0], after[1]-before[1]
	return t, err
}

// cpuOf returns the CPU time of processes. A process 0 has none.
func cpuOf(processes [2]int) (used [2]time.Duration, err error) {
	for i, process := range processes {
		if process == 0 {
			continue
		}
		if used[i], err = cpuTimeOf(process); err != nil {
			return used, err
		}
	}
	return used, nil
}

// work does one operation after another in each of several goroutines, until the given time. It
// returns how many there were.
func (s *side) work(ctx context.Context, until time.Time) (int, error) {
	var done atomic.Int64
	workers, ctx := errgroup.WithContext(ctx)
	for range cmp.Or(s.inParallel, inParallel) {
		workers.Go(func() error {
			for time.Now().Before(until) && ctx.Err() == nil {
				i := int(s.next.Add(1) - 1)
				if s.of != nil {
					i %= s.of()
				}
				if err := s.do(ctx, i); err != nil {
					return err
				}
				done.Add(1)
			}
			return nil
		})
	}
	err := workers.Wait()
	return int(done.Load()), err
}

// storeColumns are the titles of what result returns.
const storeColumns = `                                                                   CPU µs/operation
                           broker/s      raw/s  ratio (quartiles)          broker    Vault  Vault, raw
`

// hopName is the name of the line below that of the broker.
const hopName = "  a bare hop"

// result returns a line with the medians of the turns.
func (b *bout) result(name string, broker, raw []*turn) string {
	median := func(turns []*turn, f func(*turn) float64) float64 { return stats.Median(each(turns, f)) }
	line := fmt.Sprintf("%-24s %10.0f %10.0f  %-23s %9.1f", name,
		median(broker, (*turn).throughput), median(raw, (*turn).throughput),
		ratios(broker, raw, (*turn).throughput), median(broker, (*turn).cpuPerRequest)/1e3)
	if b.store != 0 {
		line += fmt.Sprintf(" %8.1f %11.1f", median(broker, (*turn).storeCPUPerRequest)/1e3, median(raw, (*turn).storeCPUPerRequest)/1e3)
	}
	return strings.TrimRight(line, " ") + "\n"
}
