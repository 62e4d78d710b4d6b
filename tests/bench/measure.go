package main

import (
	"context"
	"fmt"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/tests/stats"
)

// starts restarts the process several times and prints the time to the first response.
func (l *lab) starts(ctx context.Context) error {
	const times = 5
	var took []float64
	for range times {
		begin, err := l.full().restart(ctx)
		if err != nil {
			return err
		}
		took = append(took, float64(time.Since(begin).Milliseconds()))
	}
	fmt.Printf("\nstart to first response, %d connections: %.0f ms (median of %d)\n", l.full().connections, stats.Median(took), times)
	return nil
}

// memory uses many connections of a fresh process and prints the memory for each.
func (l *lab) memory(ctx context.Context) error {
	const used = 20_000
	s := l.full()
	if _, err := s.restart(ctx); err != nil {
		return err
	}
	c := s.transport()
	before, err := c.memory(ctx)
	if err != nil {
		return err
	}
	conn, err := dial(ctx, c.address)
	if err != nil {
		return err
	}
	defer conn.close()
	for i := range used {
		connection := i * s.connections / used
		document := document(c.credential(connection))
		head := s.head(&traffic{}, c, target, connection)
		if err := conn.exchange(&request{head: head, start: document, length: len(document)}); err != nil {
			return err
		}
	}
	after, err := c.memory(ctx)
	if err != nil {
		return err
	}
	encoded, err := record.Encode(newRecord(0))
	if err != nil {
		return err
	}
	each := float64(after.heap-before.heap) / used
	fmt.Printf("\nmemory of a connection in use: %.0f bytes of heap, %.0f beyond its record of %d (mean of %d)\n",
		each, each-float64(len(encoded)), len(encoded), used)
	return nil
}

// growth gives the transport turns on stores of several sizes, and prints the cost of a request
// with each.
func (l *lab) growth(ctx context.Context) error {
	if l.options.growth == 0 {
		return nil
	}
	// Start with an empty cache: measuring memory has filled it.
	if _, err := l.full().restart(ctx); err != nil {
		return err
	}
	for _, connections := range []int{1, inUse} {
		if err := l.prepare(ctx, connections); err != nil {
			return err
		}
	}
	sizes := append(l.setups[1:len(l.setups):len(l.setups)], l.full())
	take := func(i int, length time.Duration) (*turn, error) {
		return sizes[i].transport().take(ctx, l.options.clients, length)
	}
	for i := range sizes {
		if _, err := take(i, warmUp); err != nil {
			return err
		}
	}
	turns := make([][]*turn, len(sizes))
	other := startOtherWork(l.processes())
	for range l.options.growth {
		for i := range sizes {
			t, err := take(i, l.options.turn)
			if err != nil {
				return err
			}
			turns[i] = append(turns[i], t)
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
	fmt.Print(other.stop())
	return nil
}
