package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/tokenbroker/caddy-token-broker/tests/storeproxy"
)

// warmUp is how long the broker runs before the store has a limit.
const warmUp = 15 * time.Second

// An overloadRun is an overload in progress.
type overloadRun struct {
	*overload
	proxy   *storeproxy.Proxy
	service *service
	caller  *caller
	watch   *watch
}

// A phase is a time in which the store serves a number of requests each second.
type phase struct {
	name  string
	limit float64 // 0: none
	tally tally

	// What happened in this time.
	elapsed               time.Duration
	refreshes, served     int64
	abandoned             int64 // requests that the store served for clients that had gone away
	longestQueue, waiting int   // requests before the store, and calls in progress, at most
	usage                 usage
}

func (p *phase) refreshRate() float64 { return float64(p.refreshes) / p.elapsed.Seconds() }
func (p *phase) storeRate() float64   { return float64(p.served) / p.elapsed.Seconds() }

// run runs the phases and prints the results.
func (r *overloadRun) run(ctx context.Context, v *verdict) error {
	r.print()
	if err := r.caller.callEach(ctx, 16); err != nil {
		return err
	}
	calling, stop := context.WithCancel(ctx)
	var work sync.WaitGroup
	work.Go(func() { r.caller.run(calling, r.calls) })
	work.Go(func() { r.watch.run(calling) })
	free := r.pass(ctx, "no limit", 0, warmUp)
	if r.below == 0 {
		r.below = r.demand() * r.cost / 2
	}
	if r.above == 0 {
		r.above = 1.5 * max(free.storeRate(), r.demand()*r.cost)
	}
	phases := []*phase{
		free,
		r.pass(ctx, "below", r.below, r.phase),
		r.pass(ctx, "above", r.above, r.phase),
		r.pass(ctx, "below again", r.below, r.phase*3/4),
		r.pass(ctx, "lifted", 0, r.phase*3/4),
	}
	r.caller.record(&tally{})
	stop()
	work.Wait() // the last calls end
	if err := ctx.Err(); err != nil {
		return err
	}
	r.report(phases, v)
	return nil
}

// pass runs one phase. Calls count in the phase in which they start.
func (r *overloadRun) pass(ctx context.Context, name string, limit float64, length time.Duration) *phase {
	p := &phase{name: name, limit: limit}
	r.proxy.SetRate(limit)
	r.caller.record(&p.tally)
	refreshes, served, abandoned := r.service.granted.Load(), r.proxy.Served(), r.proxy.Abandoned()
	_, _, _ = r.watch.peak(), r.caller.open.peak(), r.proxy.LongestQueue()
	begun := time.Now()
	select {
	case <-ctx.Done():
	case <-time.After(length):
	}
	p.elapsed = time.Since(begun)
	p.refreshes, p.served = r.service.granted.Load()-refreshes, r.proxy.Served()-served
	p.abandoned = r.proxy.Abandoned() - abandoned
	p.usage, p.waiting, p.longestQueue = r.watch.peak(), r.caller.open.peak(), r.proxy.LongestQueue()
	return p
}

// allowed returns how many refreshes each second the store allows, and the calls ask for.
func (r *overloadRun) allowed(p *phase) float64 {
	if p.limit == 0 {
		return r.demand()
	}
	return min(p.limit/r.cost, r.demand())
}

func (r *overloadRun) report(phases []*phase, v *verdict) {
	const columns = "%-12v %7v %11v %8v %7v %7v %9v %6v %6v %7v %7v %6v %6v %10v %6v %6v %7v %6v\n"
	fmt.Printf(columns, "", "store", "refreshes/s", "possible", "goodput", "store", "for", "for no", "calls", "failed:", "failed:",
		"p50", "p99", "goroutines", "fds", "RSS", "calls", "queue")
	fmt.Printf(columns, "phase", "limit/s", "", "", "", "req/s", "a refresh", "client", "good", "valid", "other", "ms", "ms", "", "", "MB", "waiting", "")
	for _, p := range phases {
		limit := "none"
		if p.limit > 0 {
			limit = fmt.Sprintf("%.0f", p.limit)
		}
		n, latency := p.tally.count(), p.tally.latency(0.5, 0.99)
		cost := "-"
		if p.refreshes > 0 {
			cost = fmt.Sprintf("%.1f", float64(p.served)/float64(p.refreshes))
		}
		fmt.Printf(columns, p.name, limit, decimal(p.refreshRate()), decimal(r.allowed(p)), fmt.Sprintf("%.2f", p.refreshRate()/r.allowed(p)),
			decimal(p.storeRate()), cost, p.abandoned, n.good, n.broken, n.failed()-n.broken,
			milliseconds(latency[0]), milliseconds(latency[1]), p.usage.goroutines, p.usage.descriptors,
			p.usage.memory>>20, p.waiting, p.longestQueue)
	}
	for _, p := range phases {
		if failures := p.tally.failures(); failures != "" {
			fmt.Printf("failed calls, %s: %s\n", p.name, failures)
		}
	}
	r.judge(phases, v)
}

// judge prints the lines that count.
func (r *overloadRun) judge(phases []*phase, v *verdict) {
	fmt.Println()
	var all counts
	var most usage
	waiting := 0
	for _, p := range phases {
		most, waiting = most.or(p.usage), max(waiting, p.waiting)
		n := p.tally.count()
		all.held += n.held
		all.broken += n.broken
		all.brokenOld += n.brokenOld
		if strings.HasPrefix(p.name, "below") {
			goodput := p.refreshRate() / r.allowed(p)
			v.require(goodput >= leastGoodput, "%d connections, %s: goodput %.2f of what the store allows", r.connections, p.name, goodput)
		}
	}
	fmt.Printf("%d connections: at most %d goroutines, %d descriptors and %d MB, with at most %d calls waiting\n",
		r.connections, most.goroutines, most.descriptors, most.memory>>20, waiting)
	v.require(all.broken == 0, "%d connections: %d of %d calls with a valid token failed (%d of them with one used before)",
		r.connections, all.broken, all.held, all.brokenOld)
	after, ok := phases[len(phases)-1].tally.recovery()
	if !ok {
		v.require(false, "%d connections: no full service %v after the limit was lifted", r.connections, phases[len(phases)-1].elapsed.Round(time.Second))
	} else {
		v.require(after <= mostRecovery, "%d connections: full service %.1f s after the limit was lifted", r.connections, after.Seconds())
	}
	if refused := r.service.refused.Load(); refused > 0 {
		v.require(false, "%d connections: %d token requests had a spent refresh token", r.connections, refused)
	}
}

func decimal(value float64) string { return fmt.Sprintf("%.1f", value) }

func milliseconds(d time.Duration) string { return fmt.Sprintf("%.0f", float64(d)/1e6) }
