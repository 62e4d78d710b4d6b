package main

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

// How often to look at the broker, and how long a look may take.
const (
	watchInterval = time.Second
	lookTimeout   = 5 * time.Second
)

// A usage is what a process uses. Only Linux tells descriptors and memory; elsewhere they are 0.
type usage struct {
	goroutines  int
	descriptors int
	memory      int64 // resident, in bytes
}

// or returns the higher value of each.
func (u usage) or(v usage) usage {
	return usage{max(u.goroutines, v.goroutines), max(u.descriptors, v.descriptors), max(u.memory, v.memory)}
}

// A watch looks at a broker regularly.
type watch struct {
	broker *broker

	mu   sync.Mutex // guards the fields below
	most usage      // of each, the most since the last call of peak
	last usage
}

// run looks until ctx is done.
func (w *watch) run(ctx context.Context) {
	for ctx.Err() == nil {
		w.look(ctx)
		select {
		case <-ctx.Done():
		case <-time.After(watchInterval):
		}
	}
}

// look looks once.
func (w *watch) look(ctx context.Context) usage {
	now := w.broker.usage(ctx)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last = now
	w.most = w.most.or(now)
	return now
}

// peak returns the most of each since the last call.
func (w *watch) peak() usage {
	w.mu.Lock()
	defer w.mu.Unlock()
	most := w.most
	w.most = w.last
	return most
}

// usage returns what the process uses now, as far as that can be told.
func (b *broker) usage(ctx context.Context) (u usage) {
	u.goroutines = b.goroutines(ctx)
	dir := fmt.Sprintf("/proc/%d/", b.process.ID())
	if entries, err := os.ReadDir(dir + "fd"); err == nil {
		u.descriptors = len(entries)
	}
	if status, err := os.ReadFile(dir + "status"); err == nil {
		_, rest, _ := strings.Cut(string(status), "\nVmRSS:")
		var kibibytes int64
		if _, err := fmt.Sscan(rest, &kibibytes); err == nil {
			u.memory = kibibytes << 10
		}
	}
	return u
}

// goroutines returns the number of goroutines, or 0 if the process does not say.
func (b *broker) goroutines(ctx context.Context) int {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, siteURL(b.ports.Admin)+"/debug/pprof/goroutine?debug=1", nil)
	if err != nil {
		return 0
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0
	}
	defer func() { _ = resp.Body.Close() }()
	line, err := bufio.NewReader(resp.Body).ReadString('\n')
	var count int
	if _, scanErr := fmt.Sscanf(line, "goroutine profile: total %d", &count); err != nil || scanErr != nil {
		return 0
	}
	return count
}
