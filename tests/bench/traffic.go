package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/tokenbroker/caddy-token-broker/tests/stats"
)

// warmUp is how long each contestant runs before the measurement.
const warmUp = 500 * time.Millisecond

// A traffic is a kind of request that the contestants are compared with.
type traffic struct {
	name    string // of the part
	what    string
	secure  bool   // the upstream speaks HTTP/2, with TLS
	body    []byte // of each request; nil: GET
	clients int
	turns   int
}

// traffic returns the selected kinds.
func (o *options) traffic() (selected []*traffic) {
	for _, t := range []*traffic{
		{name: "get", what: "GET, upstream HTTP/1.1", clients: o.clients, turns: o.pairs},
		{name: "h2", what: "GET, upstream HTTP/2 with TLS", secure: true, clients: o.clients, turns: o.shortPairs},
		{name: "post-64k", what: "POST of 64 KiB, as much in return", body: body(64 << 10), clients: 16, turns: o.shortPairs},
		{name: "post-8m", what: "POST of 8 MiB, as much in return", body: body(8 << 20), clients: 4, turns: o.shortPairs},
	} {
		if o.parts.has(t.name) {
			selected = append(selected, t)
		}
	}
	return selected
}

func describe(o *options) {
	fmt.Printf("%s, %s/%s, CPUs: proxy %v, load and upstream %v\n", runtime.Version(), runtime.GOOS, runtime.GOARCH, proxyCPUs(), loadCPUs())
}

// inTurns calls take for each of count contestants, rounds times. Who comes first alternates.
func inTurns(rounds, count int, take func(i int) error) error {
	for round := range rounds {
		for i := range count {
			if round%2 == 1 {
				i = count - 1 - i
			}
			if err := take(i); err != nil {
				return err
			}
		}
	}
	return nil
}

// compare gives the contestants turns and prints the results.
func (l *lab) compare(ctx context.Context, t *traffic) error {
	contestants := l.contestants(t)
	if err := l.full().check(ctx, t, contestants); err != nil {
		return err
	}
	for _, c := range contestants {
		if _, err := c.take(ctx, t.clients, warmUp); err != nil {
			return err
		}
	}
	turns := make([][]*turn, len(contestants))
	other := startOtherWork(l.processes())
	if err := inTurns(t.turns, len(contestants), func(i int) error {
		result, err := contestants[i].take(ctx, t.clients, l.options.turn)
		turns[i] = append(turns[i], result)
		return err
	}); err != nil {
		return err
	}
	fmt.Printf("\n%s: %s; %d clients, turns of %v\n", t.name, t.what, t.clients, l.options.turn)
	printTurns(contestants, turns)
	fmt.Print(other.stop())
	return nil
}

func printTurns(contestants []*contestant, turns [][]*turn) {
	fmt.Println("             requests/s     p50 µs     p90 µs     p99 µs    CPU µs/request")
	for i, c := range contestants {
		fmt.Printf("%-10s %12.0f %s %17.1f\n", c.name, stats.Median(each(turns[i], (*turn).throughput)),
			percentiles(turns[i]), stats.Median(each(turns[i], (*turn).cpuPerRequest))/1e3)
	}
	fmt.Printf("median of %d pairs' ratios to plain (quartiles):\n", len(turns[0]))
	for i, c := range contestants[1:] {
		fmt.Printf("%-10s throughput %s, CPU per request %s\n", c.name,
			ratios(turns[i+1], turns[0], (*turn).throughput), ratios(turns[i+1], turns[0], (*turn).cpuPerRequest))
	}
}

// percentiles formats percentiles of the latency over all turns, in microseconds.
func percentiles(turns []*turn) string {
	var all []time.Duration
	for _, t := range turns {
		all = append(all, t.latencies...)
	}
	slices.Sort(all)
	var b strings.Builder
	for _, p := range []float64{0.5, 0.9, 0.99} {
		fmt.Fprintf(&b, " %10.0f", float64(stats.Percentile(all, p))/1e3)
	}
	return strings.TrimPrefix(b.String(), " ")
}

// profile writes a CPU profile of a turn of each contestant.
func (l *lab) profile(ctx context.Context, t *traffic) error {
	const seconds = 10
	for _, c := range l.contestants(t) {
		done := make(chan error, 1)
		go func() {
			url := fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", c.profiles, seconds)
			done <- save(ctx, url, "", filepath.Join(l.options.profile, t.name+"-"+c.name+".pprof"))
		}()
		result, err := c.take(ctx, t.clients, (seconds+1)*time.Second)
		if err != nil {
			return err
		}
		fmt.Printf("%-8s %-10s %d requests in %v\n", t.name, c.name, result.requests, result.elapsed.Round(time.Millisecond))
		if err := <-done; err != nil {
			return err
		}
	}
	return nil
}

// save writes what a URL returns to a file.
func save(ctx context.Context, url, vaultToken, path string) (err error) {
	body, err := fetch(ctx, url, vaultToken)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, body)
	return errors.Join(err, file.Close())
}
