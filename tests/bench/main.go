// Command bench measures what the token broker costs. It runs the built binary with one
// configuration that has, on loopback with real sockets,
//
//	plain      reverse_proxy with a static header_up Authorization
//	transport  reverse_proxy with transport token_broker
//	proxy      downstream_proxy, if the binary has it
//
// in front of one upstream, and an embedded store of 100,000 connections. Requests are
// spread over 1,000 of them. The contestants take turns of a second, one after another
// in the same process, and what is printed is the median of the ratios of neighbouring
// turns: a machine that slows down slows all of them.
//
// The proxy, the upstream and the load are processes of their own. Where there are two
// CPUs or more the proxy gets half of them to itself and the others share the rest, so
// that a turn's throughput is the proxy's.
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

// Options are what a run can vary in.
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
	flag.IntVar(&o.growth, "growth", 8, "how many turns each size of store gets; 0: growth is not measured")
	flag.DurationVar(&o.turn, "turn", time.Second, "how long a turn is")
	flag.IntVar(&o.clients, "clients", 8, "keep-alive connections to the proxy, each with one request at a time")
	flag.StringVar(&o.dir, "dir", "", "where the stores are made; default: memory if there is /dev/shm, else a temporary directory")
	flag.StringVar(&o.profile, "profile", "", "write a CPU profile of each contestant to this directory instead")
	flag.BoolVar(&o.upstream, "upstream", false, "be the upstream (bench starts itself so)")
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

// The sizes of the stores, and how many connections are used at a time.
const (
	fullStore = 100_000
	inUse     = 1_000
)

func run(ctx context.Context, o *options) (err error) {
	if o.binary == "" {
		return errors.New("-binary is missing: make bench gives it")
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
	// What the measuring of memory has left there would be taken for growth.
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

// workDir makes the directory that the run's files are in. In memory, what is measured
// is the proxy and not the disk; the set-up alone writes a hundred thousand records.
func (o *options) workDir() (string, error) {
	parent := o.dir
	if info, err := os.Stat("/dev/shm"); parent == "" && err == nil && info.IsDir() {
		parent = "/dev/shm"
	}
	return os.MkdirTemp(parent, "token-broker-bench-")
}
