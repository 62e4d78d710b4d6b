package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/tests/child"
	"github.com/tokenbroker/caddy-token-broker/tests/storeproxy"
)

// A soak is a steady load.
type soak struct {
	connections int
	lifetime    time.Duration
	calls       float64
	duration    time.Duration
	vault       string
	busy        bool
}

func soakCommand(ctx context.Context, arguments []string) error {
	var o options
	var s soak
	flags := flag.NewFlagSet("soak", flag.ExitOnError)
	o.register(flags)
	flags.IntVar(&s.connections, "connections", 2000, "number of connections")
	flags.DurationVar(&s.lifetime, "lifetime", 30*time.Second, "how long tokens are valid")
	flags.Float64Var(&s.calls, "calls", 300, "calls a second")
	flags.DurationVar(&s.duration, "duration", 10*time.Minute, "how long to call")
	flags.StringVar(&s.vault, "vault", "raft", "where Vault keeps its data: raft or inmem")
	flags.BoolVar(&s.busy, "busy", false, "start another program that uses all CPUs")
	if err := o.parse(flags, arguments); err != nil {
		return err
	}
	return o.inDir(func(dir string) error { return s.run(ctx, &o, dir) })
}

func (s *soak) run(ctx context.Context, o *options, dir string) (err error) {
	vault, err := startVault(dir, s.vault)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, vault.Close()) }()
	proxy, err := storeproxy.Start(vault.Addr) // to count requests
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, proxy.Close()) }()
	service, err := startService(s.connections, s.lifetime, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, service.close()) }()
	storage, err := inVault(dir, vault.Addr, proxy.URL(), vault.Token)
	if err != nil {
		return err
	}
	if err := storage.fill(ctx, s.connections, func(i int) *record.Record { return steady(service, i) }); err != nil {
		return err
	}
	d := deployment{binary: o.binary, dir: dir, storage: storage.config, service: service.address}
	broker, err := d.start(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, broker.stop()) }()
	caller := newCaller(siteURL(broker.ports.Sidecar), service, 0, s.connections, time.Minute)
	if err := caller.callEach(ctx, 16); err != nil {
		return err
	}
	if s.busy {
		other, err := startBurning(ctx)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, other.Stop()) }()
	}
	fmt.Printf("%d connections with tokens of %v, %.0f calls/s for %v, Vault on %s, CPUs taken by another program: %t\n\n",
		s.connections, s.lifetime, s.calls, s.duration, s.vault, s.busy)
	return s.watch(ctx, caller, &watch{broker: broker}, proxy)
}

// watch calls for the duration, and prints progress.
func (s *soak) watch(ctx context.Context, caller *caller, w *watch, proxy *storeproxy.Proxy) error {
	const interval = 10 * time.Second
	ctx, cancel := context.WithTimeout(ctx, s.duration)
	defer cancel()
	var total tally
	caller.record(&total)
	var work sync.WaitGroup
	work.Go(func() { caller.run(ctx, s.calls) })
	work.Go(func() { w.run(ctx) })
	const columns = "%6v %8v %7v %13v %11v %11v %8v %8v %10v %6v %7v\n"
	fmt.Printf(columns, "after", "calls", "failed", "failed: valid", "refreshes/s", "store req/s", "p50 ms", "p99 ms", "goroutines", "fds", "RSS MB")
	refreshes, served := caller.service.granted.Load(), proxy.Served()
	begun := time.Now()
	for last := begun; ctx.Err() == nil; {
		select {
		case <-ctx.Done():
		case <-time.After(interval):
		}
		now := time.Now()
		n, latency, u := total.count(), total.latency(0.5, 0.99), w.peak()
		r, v := caller.service.granted.Load(), proxy.Served()
		rate := func(count int64) string { return decimal(float64(count) / now.Sub(last).Seconds()) }
		fmt.Printf(columns, now.Sub(begun).Round(time.Second), n.all, n.failed(), n.broken,
			rate(r-refreshes), rate(v-served), milliseconds(latency[0]), milliseconds(latency[1]), u.goroutines,
			u.descriptors, u.memory>>20)
		refreshes, served, last = r, v, now
	}
	work.Wait()
	return s.judge(&total, caller.service)
}

func (s *soak) judge(total *tally, service *service) error {
	n := total.count()
	if failures := total.failures(); failures != "" {
		fmt.Printf("failed calls: %s\n", failures)
	}
	var v verdict
	v.require(s.busy || n.failed() == 0, "%d of %d calls failed", n.failed(), n.all)
	v.require(n.broken == 0, "%d of %d calls with a valid token failed (%d of them with one used before)", n.broken, n.held, n.brokenOld)
	v.require(service.refused.Load() == 0, "%d token requests had a spent refresh token", service.refused.Load())
	return v.err()
}

// burnWord is the command that takes all CPUs. The program starts itself with it.
const burnWord = "burn"

// burn keeps every CPU busy until it is killed.
func burn(context.Context, []string) error {
	for range runtime.NumCPU() - 1 {
		go spin()
	}
	spin()
	return nil
}

func spin() {
	for { //nolint:staticcheck // it is there to take a CPU
	}
}

// startBurning starts a process that takes all CPUs.
func startBurning(ctx context.Context) (*child.Process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, burnWord)
	cmd.SysProcAttr = child.DieWithParent()
	return child.Start(cmd, cmd.Start)
}
