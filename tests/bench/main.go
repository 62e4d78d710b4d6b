// Command bench measures what the token broker costs. It runs the built binary with one
// configuration that has, on loopback with real sockets,
//
//	plain      reverse_proxy with a static header_up Authorization
//	transport  reverse_proxy with transport token_broker
//	proxy      downstream_proxy, if the binary has it
//
// in front of one upstream, and an embedded store of 100,000 connections, 1,000 of which are
// used. A process of its own is the reference:
//
//	bare       the least that net/http needs to forward a request with a credential
//
// The contestants take turns. Bench prints the median of the ratios of neighbouring turns,
// since a machine that slows down slows all contestants. The stores, and the command import, are
// measured in the same way, against clients that do without the broker.
//
// The proxy, the upstream and the load are separate processes. With two or more CPUs, half of
// them are reserved for the proxy and the others share the rest, so that the proxy limits the
// throughput. To measure the stores, all processes use all CPUs.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"time"
)

// options are the flags of a run.
type options struct {
	binary     string
	parts      selection
	pairs      int
	shortPairs int
	growth     int
	turn       time.Duration
	storeTurns int
	storeTurn  time.Duration
	stores     string
	clients    int
	dir        string
	profile    string

	// role is what bench is started as by itself; empty: the one that measures.
	role        string
	target      string
	certificate string
	thirdParty  string
}

func main() {
	o := options{parts: partNames}
	flag.StringVar(&o.binary, "binary", "", "the token-broker to measure")
	flag.Var(&o.parts, "parts", "what to measure, separated by commas")
	flag.IntVar(&o.pairs, "pairs", 25, "how many turns each contestant gets in the part get")
	flag.IntVar(&o.shortPairs, "short-pairs", 10, "how many turns each contestant gets in the parts h2, post-64k and post-8m")
	flag.IntVar(&o.growth, "growth", 8, "how many turns each size of store gets; 0: do not measure growth")
	flag.DurationVar(&o.turn, "turn", time.Second, "how long a turn is")
	flag.IntVar(&o.storeTurns, "store-turns", 5, "how many turns the broker and the raw client get for each operation in the parts stores and import")
	flag.DurationVar(&o.storeTurn, "store-turn", 2*time.Second, "how long these turns are")
	flag.StringVar(&o.stores, "stores", "embedded,vault", "which stores to measure in the parts stores and import, separated by commas")
	flag.IntVar(&o.clients, "clients", 8, "keep-alive connections to the proxy for GETs, each with one request at a time")
	flag.StringVar(&o.dir, "dir", "", "where to create the stores; default: /dev/shm if it exists, else a temporary directory. In the parts stores and import it is a temporary directory")
	flag.StringVar(&o.profile, "profile", "", "write CPU profiles of the contestants to this directory instead")
	flag.StringVar(&o.role, "role", "", "bench starts itself with this flag and the following ones: "+roleUpstream+", "+roleBare+" or "+roleHop)
	flag.StringVar(&o.target, "target", "", "the URL that "+roleBare+" forwards to, or that of Vault")
	flag.StringVar(&o.thirdParty, "third-party", "", "the URL of the token endpoint and API behind "+roleHop)
	flag.StringVar(&o.certificate, "certificate", "", "the directory of the upstream's certificate")
	flag.Parse()
	fatal(o.start())
}

func (o *options) start() error {
	switch o.role {
	case roleUpstream:
		return serveUpstream(o.certificate)
	case roleBare:
		return serveBare(o.target, o.certificate)
	case roleHop:
		return serveHop(o.target, o.dir, o.thirdParty)
	case "":
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
		defer stop()
		return run(ctx, o)
	}
	return fmt.Errorf("-role: there is no role %q", o.role)
}

func fatal(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// The size of the large store, and the number of connections in use.
const (
	fullStore = 100_000
	inUse     = 1_000
)

func run(ctx context.Context, o *options) (err error) {
	if o.binary == "" {
		return errors.New("-binary is missing: make bench sets it")
	}
	if o.binary, err = filepath.Abs(o.binary); err != nil {
		return err
	}
	if err := pinSelf(loadCPUs()); err != nil {
		return err
	}
	describe(o)
	if o.parts.has("get", "h2", "post-64k", "post-8m", "streams", "start", "memory", "growth") {
		if err := inDir(o.memoryDir(), func(dir string) error { return runProxies(ctx, o, dir) }); err != nil {
			return err
		}
	}
	if o.parts.has("stores") {
		if err := runStores(ctx, o); err != nil {
			return err
		}
	}
	if o.parts.has("import") {
		return runImports(ctx, o)
	}
	return nil
}

// runProxies measures what concerns the proxy.
func runProxies(ctx context.Context, o *options, dir string) (err error) {
	l, err := newLab(ctx, o, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	for _, t := range o.traffic() {
		measure := l.compare
		if o.profile != "" {
			measure = l.profile
		}
		if err := measure(ctx, t); err != nil {
			return fmt.Errorf("%s: %w", t.name, err)
		}
	}
	if o.profile != "" {
		return nil
	}
	for _, part := range []struct {
		name    string
		measure func(ctx context.Context) error
	}{{"streams", l.streams}, {"start", l.starts}, {"memory", l.memory}, {"growth", l.growth}} {
		if !o.parts.has(part.name) {
			continue
		}
		if err := part.measure(ctx); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	return nil
}

// memoryDir returns where to create the files of a run. It is in memory if possible, so that the
// disk does not count; the setup alone writes a hundred thousand records.
func (o *options) memoryDir() string {
	if info, err := os.Stat("/dev/shm"); o.dir == "" && err == nil && info.IsDir() {
		return "/dev/shm"
	}
	return o.dir
}

// inDir calls f with a new directory below parent, which f can fill. If parent is empty, it is
// below the system's temporary directory.
func inDir(parent string, f func(dir string) error) (err error) {
	dir, err := os.MkdirTemp(parent, "token-broker-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	return f(dir)
}
