package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/tests/storeproxy"
)

// The bounds that an overloaded broker has to keep.
const (
	leastGoodput = 0.9 // of the refreshes that the store allows
	mostRecovery = 10 * time.Second
)

// An overload is a run with one number of connections.
type overload struct {
	connections  int
	lifetime     time.Duration // of tokens
	calls        float64       // a second
	below, above float64       // requests that the store serves each second; 0: half of what is needed, and half as much again
	cost         float64       // requests to the store that a refresh needs
	phase        time.Duration
	cacheTTL     time.Duration
	callTimeout  time.Duration
}

// overloads are the runs without flags.
var overloads = []overload{
	{connections: 600, lifetime: 30 * time.Second, calls: 60},
	{connections: 5000, lifetime: 2 * time.Minute, calls: 250},
}

func overloadCommand(ctx context.Context, arguments []string) error {
	var o options
	var set overload
	flags := flag.NewFlagSet("overload", flag.ExitOnError)
	o.register(flags)
	flags.IntVar(&set.connections, "connections", 0, "number of connections; 0: a run with 600 and one with 5,000")
	flags.DurationVar(&set.lifetime, "lifetime", 30*time.Second, "how long tokens are valid, three minutes at most")
	flags.Float64Var(&set.calls, "calls", 60, "calls a second")
	flags.Float64Var(&set.below, "below", 0, "requests a second that Vault serves when overloaded; 0: half of what the refreshes need")
	flags.Float64Var(&set.above, "above", 0, "requests a second that Vault serves otherwise; 0: 1.5 times what it served without a limit")
	flags.Float64Var(&set.cost, "cost", 3, "requests to Vault that a refresh needs, if nothing goes wrong")
	flags.DurationVar(&set.phase, "phase", 40*time.Second, "how long a phase is")
	flags.DurationVar(&set.cacheTTL, "cache-ttl", 0, "the broker's cache_ttl; default: the lifetime, so that refreshes make all the work of the store")
	flags.DurationVar(&set.callTimeout, "call-timeout", 30*time.Second, "how long callers wait for a response")
	if err := o.parse(flags, arguments); err != nil {
		return err
	}
	runs := []overload{set}
	if set.connections == 0 {
		runs = nil
		for _, run := range overloads {
			r := set
			r.connections, r.lifetime, r.calls = run.connections, run.lifetime, run.calls
			runs = append(runs, r)
		}
	}
	var v verdict
	for _, run := range runs {
		if err := o.inDir(func(dir string) error { return run.run(ctx, &o, dir, &v) }); err != nil {
			return err
		}
	}
	return v.err()
}

// demand returns how many refreshes each second the calls ask for: a connection is refreshed by
// the first call in the last third of its token's lifetime.
func (o *overload) demand() float64 {
	untilCalled := float64(o.connections) / o.calls
	return float64(o.connections) / (o.lifetime.Seconds()*2/3 + untilCalled)
}

func (o *overload) run(ctx context.Context, options *options, dir string, v *verdict) (err error) {
	if o.cacheTTL == 0 {
		o.cacheTTL = o.lifetime
	}
	vault, err := startVault(dir, "inmem")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, vault.Close()) }()
	proxy, err := storeproxy.Start(vault.Addr)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, proxy.Close()) }()
	service, err := startService(o.connections, o.lifetime, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, service.close()) }()
	storage, err := inVault(dir, vault.Addr, proxy.URL(), vault.Token)
	if err != nil {
		return err
	}
	if err := storage.fill(ctx, o.connections, func(i int) *record.Record { return steady(service, i) }); err != nil {
		return err
	}
	d := deployment{binary: options.binary, dir: dir, storage: storage.config, service: service.address, cacheTTL: o.cacheTTL}
	broker, err := d.start(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, broker.stop()) }()
	r := &overloadRun{
		overload: o, proxy: proxy, service: service, watch: &watch{broker: broker},
		caller: newCaller(siteURL(broker.ports.Sidecar), service, 0, o.connections, o.callTimeout),
	}
	return r.run(ctx, v)
}

// steady returns the record of a connection that has been in use: tokens are of every age up to
// that at which they are refreshed.
func steady(s *service, connection int) *record.Record {
	now := time.Now()
	issuedAt := now.Add(-rand.N(s.lifetime * 2 / 3))
	expiry := issuedAt.Add(s.lifetime)
	s.stored(connection, expiry)
	return newRecord(connection, issuedAt, expiry)
}

// print prints what the run is.
func (o *overload) print() {
	fmt.Printf("\n%d connections with tokens of %v, %.0f calls/s; cache_ttl %v\n", o.connections, o.lifetime, o.calls, o.cacheTTL)
	fmt.Printf("the calls ask for about %.1f refreshes/s; a refresh needs %.0f requests to the store\n", o.demand(), o.cost)
}
