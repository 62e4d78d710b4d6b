// Command bench measures what the token broker costs. It runs the built binary with one
// configuration that has, on loopback with real sockets,
//
//	plain      reverse_proxy with a static header_up Authorization
//	transport  reverse_proxy with transport token_broker
//	proxy      downstream_proxy, if the binary has it
//
// in front of one upstream, and an embedded store of 100,000 connections, 1,000 of which are
// used. The contestants take turns of a second in the same process. It prints the median of
// the ratios of neighbouring turns, since a machine that slows down slows all contestants.
//
// The proxy, the upstream and the load are separate processes. With two or more CPUs, half of
// them are reserved for the proxy and the others share the rest, so that the proxy limits the
// throughput.
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
	binary   string
	pairs    int
	growth   int
	turn     time.Duration
	clients  int
	dir      string
	profile  string
	upstream bool
}

func main() {
	var o options
	flag.StringVar(&o.binary, "binary", "", "the token-broker to measure")
	flag.IntVar(&o.pairs, "pairs", 25, "how many turns each contestant gets")
	flag.IntVar(&o.growth, "growth", 8, "how many turns each size of store gets; 0: do not measure growth")
	flag.DurationVar(&o.turn, "turn", time.Second, "how long a turn is")
	flag.IntVar(&o.clients, "clients", 8, "keep-alive connections to the proxy, each with one request at a time")
	flag.StringVar(&o.dir, "dir", "", "where to create the stores; default: /dev/shm if it exists, else a temporary directory")
	flag.StringVar(&o.profile, "profile", "", "write a CPU profile of each contestant to this directory instead")
	flag.BoolVar(&o.upstream, "upstream", false, "run as the upstream (bench starts itself with this flag)")
	flag.Parse()
	if o.upstream {
		fatal(serveUpstream())
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	fatal(run(ctx, &o))
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
	if err := pinLoad(); err != nil {
		return err
	}
	dir, err := o.workDir()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	upstream, err := startUpstream(ctx)
	if err != nil {
		return err
	}
	defer upstream.stop()

	full, err := prepare(ctx, o, dir, upstream, fullStore)
	if err != nil {
		return err
	}
	describe(o, full)
	if o.profile != "" {
		return profile(ctx, o, full)
	}
	if err := compare(ctx, o, full); err != nil {
		return err
	}
	if err := starts(ctx, full); err != nil {
		return err
	}
	if err := memory(ctx, full); err != nil {
		return err
	}
	if o.growth == 0 {
		return nil
	}
	// Start with an empty cache: measuring memory has filled it.
	if _, err := full.restart(ctx); err != nil {
		return err
	}
	one, err := prepare(ctx, o, dir, upstream, 1)
	if err != nil {
		return err
	}
	thousand, err := prepare(ctx, o, dir, upstream, inUse)
	if err != nil {
		return err
	}
	return grow(ctx, o, []*setup{one, thousand, full})
}

// workDir creates the directory for the run's files. It is in memory if possible, so that the
// disk does not count; the setup alone writes a hundred thousand records.
func (o *options) workDir() (string, error) {
	parent := o.dir
	if info, err := os.Stat("/dev/shm"); parent == "" && err == nil && info.IsDir() {
		parent = "/dev/shm"
	}
	return os.MkdirTemp(parent, "token-broker-bench-")
}
