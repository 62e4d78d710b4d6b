package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// A caller calls the API through the broker, for random connections, at a steady rate: however
// long the responses take, the next call is not held back.
type caller struct {
	client  *http.Client
	url     string // of the sidecar
	service *service
	count   int // calls go to this many connections
	first   int // number of the first one
	open    level

	mu    sync.Mutex // guards the fields below
	tally *tally     // of calls that start now
	calls sync.WaitGroup
}

func newCaller(url string, s *service, first, count int, timeout time.Duration) *caller {
	return &caller{
		url: url, service: s, first: first, count: count, tally: &tally{},
		client: &http.Client{Timeout: timeout, Transport: &http.Transport{MaxIdleConnsPerHost: 2000, IdleConnTimeout: time.Minute}},
	}
}

// record makes calls that start from now on count in t.
func (c *caller) record(t *tally) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t.begun = time.Now()
	c.tally = t
}

func (c *caller) recording() *tally {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tally
}

// run starts a number of calls each second until ctx is done, and waits for the responses.
func (c *caller) run(ctx context.Context, perSecond float64) {
	defer c.calls.Wait()
	interval := time.Duration(float64(time.Second) / perSecond)
	for next := time.Now(); ; next = next.Add(interval) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Until(next)): // at once if it is late
		}
		connection := c.first + rand.N(c.count)
		c.calls.Go(func() { c.call(connection) })
	}
}

// callEach calls every connection once, some of them at a time. It returns the first error.
func (c *caller) callEach(ctx context.Context, parallel int) error {
	return inParallel(ctx, parallel, c.count, func(_ context.Context, i int) error {
		if got := c.call(c.first + i); got.outcome != success {
			return fmt.Errorf("the first call of connection %d: %s", c.first+i, got.outcome)
		}
		return nil
	})
}

// success is the outcome of a call with the status 200.
const success = "200"

// call makes one call and records it.
func (c *caller) call(connection int) call {
	t := c.recording()
	c.open.enter()
	defer c.open.leave()
	got := call{start: time.Now()}
	got.held, got.used = c.service.held(connection, got.start)
	got.outcome = c.get(connection)
	got.took = time.Since(got.start)
	t.add(got)
	return got
}

// get returns the status of the response, or what kind of error there was.
func (c *caller) get(connection int) string {
	req, err := http.NewRequest(http.MethodGet, c.url+"/things", nil)
	if err != nil {
		return err.Error()
	}
	req.Header.Set(consumerHeader, consumerID(connection))
	resp, err := c.client.Do(req)
	if err != nil {
		var timeout interface{ Timeout() bool }
		if errors.As(err, &timeout) && timeout.Timeout() {
			return "timeout"
		}
		return "no response"
	}
	defer func() { _ = resp.Body.Close() }()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return "no response"
	}
	return strconv.Itoa(resp.StatusCode)
}
