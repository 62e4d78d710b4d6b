package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/tests/stats"
)

// warmUp is how long each contestant runs before the measurement.
const warmUp = 500 * time.Millisecond

func describe(o *options, s *setup) {
	fmt.Printf("%s, %s/%s, CPUs: proxy %v, load and upstream %v\n", runtime.Version(), runtime.GOOS, runtime.GOARCH, proxyCPUs(), loadCPUs())
	fmt.Printf("%d connections stored in %v, %d in use; %d clients, turns of %v\n\n",
		s.connections, s.filledIn.Round(100*time.Millisecond), min(s.connections, inUse), o.clients, o.turn)
}

// compare gives the contestants turns and prints the results.
func compare(ctx context.Context, o *options, s *setup) error {
	contestants := s.contestants()
	turns := make([][]*turn, len(contestants))
	for _, c := range contestants {
		if _, err := take(ctx, c, s, o.clients, warmUp); err != nil {
			return err
		}
	}
	for round := range o.pairs {
		order := slices.Clone(contestants)
		if round%2 == 1 { // alternate who comes first
			slices.Reverse(order)
		}
		for _, c := range order {
			t, err := take(ctx, c, s, o.clients, o.turn)
			if err != nil {
				return err
			}
			i := slices.Index(contestants, c)
			turns[i] = append(turns[i], t)
		}
	}
	fmt.Println("             requests/s     p50 µs     p90 µs     p99 µs    CPU µs/request")
	for i, c := range contestants {
		fmt.Printf("%-10s %12.0f %s %17.1f\n", c.name, stats.Median(each(turns[i], (*turn).throughput)),
			percentiles(turns[i]), stats.Median(each(turns[i], (*turn).cpuPerRequest))/1e3)
	}
	fmt.Printf("\nmedian of %d pairs' ratios to plain (quartiles):\n", o.pairs)
	for i, c := range contestants[1:] {
		fmt.Printf("%-10s throughput %s, CPU per request %s\n", c.name,
			ratios(turns[i+1], turns[0], (*turn).throughput), ratios(turns[i+1], turns[0], (*turn).cpuPerRequest))
	}
	return nil
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

// starts restarts the process several times and prints the time to the first response.
func starts(ctx context.Context, s *setup) error {
	const times = 5
	var took []float64
	for range times {
		begin, err := s.restart(ctx)
		if err != nil {
			return err
		}
		took = append(took, float64(time.Since(begin).Milliseconds()))
	}
	fmt.Printf("\nstart to first response, %d connections: %.0f ms (median of %d)\n", s.connections, stats.Median(took), times)
	return nil
}

// memory uses many connections of a fresh process and prints the memory for each.
func memory(ctx context.Context, s *setup) error {
	const used = 20_000
	before, err := s.heap(ctx)
	if err != nil {
		return err
	}
	c := s.contestants()[1]
	conn, err := dial(ctx, c.address)
	if err != nil {
		return err
	}
	defer conn.close()
	template := string(c.requests[0])
	for i := range used {
		if _, err := conn.exchange([]byte(strings.Replace(template, consumerID(0), consumerID(i*s.connections/used), 1))); err != nil {
			return err
		}
	}
	after, err := s.heap(ctx)
	if err != nil {
		return err
	}
	encoded, err := record.Encode(newRecord(0))
	if err != nil {
		return err
	}
	each := float64(after-before) / used
	fmt.Printf("memory of a connection in use: %.0f bytes of heap, %.0f beyond its record of %d (mean of %d)\n",
		each, each-float64(len(encoded)), len(encoded), used)
	return nil
}

// heap returns the process's live heap in bytes, after a collection.
func (s *setup) heap(ctx context.Context) (int64, error) {
	url := "http://" + s.ports.address(s.ports.Admin) + "/debug/pprof/heap?gc=1&debug=1"
	body, err := fetch(ctx, url)
	if err != nil {
		return 0, err
	}
	defer func() { _ = body.Close() }()
	lines := bufio.NewScanner(body)
	for lines.Scan() {
		if value, ok := strings.CutPrefix(lines.Text(), "# HeapAlloc = "); ok {
			return strconv.ParseInt(value, 10, 64)
		}
	}
	return 0, errors.Join(lines.Err(), errors.New("the heap profile of the proxy has no HeapAlloc"))
}

func fetch(ctx context.Context, url string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, errors.Join(fmt.Errorf("%s: %s", url, resp.Status), resp.Body.Close())
	}
	return resp.Body, nil
}

// grow gives the transport turns on stores of several sizes, and prints the cost of a request
// with each.
func grow(ctx context.Context, o *options, sizes []*setup) error {
	turns := make([][]*turn, len(sizes))
	for round := range o.growth + 1 {
		for i, s := range sizes {
			length := o.turn
			if round == 0 {
				length = warmUp
			}
			t, err := take(ctx, s.contestants()[1], s, o.clients, length)
			if err != nil {
				return err
			}
			if round > 0 {
				turns[i] = append(turns[i], t)
			}
		}
	}
	fmt.Println("\ngrowth: CPU per request through the transport, by connections stored")
	for i, s := range sizes {
		fmt.Printf("%10d %10.1f µs", s.connections, stats.Median(each(turns[i], (*turn).cpuPerRequest))/1e3)
		if i > 0 {
			fmt.Printf("   %s of that with %d", ratios(turns[i], turns[0], (*turn).cpuPerRequest), sizes[0].connections)
		}
		fmt.Println()
	}
	return nil
}

// profile writes a CPU profile of a turn of each contestant.
func profile(ctx context.Context, o *options, s *setup) error {
	const seconds = 10
	for _, c := range s.contestants() {
		done := make(chan error, 1)
		go func() {
			body, err := fetch(ctx, fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", s.ports.address(s.ports.Admin), seconds))
			if err == nil {
				err = save(filepath.Join(o.profile, c.name+".pprof"), body)
			}
			done <- err
		}()
		t, err := take(ctx, c, s, o.clients, (seconds+1)*time.Second)
		if err != nil {
			return err
		}
		fmt.Printf("%-10s %d requests in %v\n", c.name, t.requests, t.elapsed.Round(time.Millisecond))
		if err := <-done; err != nil {
			return err
		}
	}
	return nil
}

func save(path string, body io.ReadCloser) (err error) {
	defer func() { err = errors.Join(err, body.Close()) }()
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, body)
	return errors.Join(err, file.Close())
}
