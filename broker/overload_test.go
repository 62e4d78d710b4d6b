package broker_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker"
	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// An orderlyStore does a number of requests in a second, one after the other. It works off what
// it was sent, even if the sender has left.
type orderlyStore struct {
	*brokertest.MemStore

	mu       sync.Mutex
	each     time.Duration // guarded by mu; how long it works on a request
	free     time.Time     // guarded by mu; when it has worked off what it was sent
	requests int           // guarded by mu
	waiting  int           // guarded by mu; requests that it has not answered
	most     int           // guarded by mu; the most of them
}

// limit sets how many requests it does in a second. 0 means that it answers at once, even
// those that are waiting.
func (s *orderlyStore) limit(perSecond int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.each = 0
	if s.free = time.Now(); perSecond > 0 {
		s.each = time.Second / time.Duration(perSecond)
	}
}

// work takes as long as a request. Its client waits 10 s, as that of Vault does.
func (s *orderlyStore) work() error {
	s.mu.Lock()
	now := time.Now()
	if s.free.Before(now) {
		s.free = now
	}
	s.free = s.free.Add(s.each)
	s.requests++
	s.waiting++
	s.most = max(s.most, s.waiting)
	wait := s.free.Sub(now)
	s.mu.Unlock()
	done := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.waiting--
	}
	const timeout = 10 * time.Second
	time.Sleep(min(wait, timeout))
	if wait <= timeout {
		done()
		return nil
	}
	time.AfterFunc(wait-timeout, done)
	return fmt.Errorf("%w: no answer within 10s", record.ErrStoreUnavailable)
}

// count returns how many requests it was sent.
func (s *orderlyStore) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests
}

// Load implements [record.Store].
func (s *orderlyStore) Load(ctx context.Context, key record.Key) (*record.Record, record.Revision, error) {
	if err := s.work(); err != nil {
		return nil, 0, err
	}
	return s.MemStore.Load(context.WithoutCancel(ctx), key)
}

// Save implements [record.Store].
func (s *orderlyStore) Save(ctx context.Context, rec *record.Record, rev record.Revision) (record.Revision, error) {
	if err := s.work(); err != nil {
		return 0, err
	}
	return s.MemStore.Save(context.WithoutCancel(ctx), rec, rev)
}

// KeepsFew implements [record.PruningStore].
func (s *orderlyStore) KeepsFew(record.Key, record.Revision) bool { return true }

// calls are the calls of a load test.
type calls struct {
	mu     sync.Mutex
	good   int // guarded by mu
	failed int // guarded by mu
	valid  int // guarded by mu; calls that began while the store had a valid token
	held   int // guarded by mu; those of them that failed, or took longer than a second
}

// reset returns the numbers so far and begins anew.
func (c *calls) reset() (good, failed, valid, held int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	good, failed, valid, held = c.good, c.failed, c.valid, c.held
	c.good, c.failed, c.valid, c.held = 0, 0, 0, 0
	return good, failed, valid, held
}

// call asks for a token, as a client that waits for half a minute.
func (c *calls) call(h *harness, key record.Key) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	rec, _, err := h.store.Load(ctx, key)
	begun := time.Now()
	valid := err == nil && !rec.Credentials.ExpiredAt(begun)
	_, err = h.Source(key).Token(ctx)
	took := time.Since(begun)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		c.good++
	} else {
		c.failed++
	}
	if valid {
		c.valid++
		if err != nil || took > time.Second {
			c.held++
		}
	}
}

// load calls each connection every 10 s until ctx ends.
func (c *calls) load(ctx context.Context, h *harness, keys []record.Key) {
	var running sync.WaitGroup
	defer running.Wait()
	pause := 10 * time.Second / time.Duration(len(keys))
	for {
		for _, key := range keys {
			running.Go(func() { c.call(h, key) })
			time.Sleep(pause)
			if ctx.Err() != nil {
				return
			}
		}
	}
}

// startOnOrderly starts the harness's broker on a slow store, with connections whose tokens
// last half a minute. The budget of the token endpoint allows more than the store does.
func startOnOrderly(h *harness, connections int) (*orderlyStore, []record.Key) {
	h.t.Helper()
	h.provider.Lifetime = 30 * time.Second
	h.config.Logger = slog.New(slog.NewTextHandler(h.log, &slog.HandlerOptions{Level: slog.LevelInfo}))
	h.configureConnector(acme, func(c *record.Connector) { c.RefreshRate, c.RefreshConcurrency = 1000, 64 })
	store := &orderlyStore{MemStore: h.store}
	h.restart(broker.Options{
		Open:    func(context.Context) (record.Store, error) { return store, nil },
		Journal: h.journal, Transport: h.transport(),
	})
	keys := make([]record.Key, connections)
	for i := range keys {
		keys[i] = h.of(fmt.Sprint("customer-", i))
		refresh := fmt.Sprint("r", i)
		h.provider.Grant(refresh)
		h.mustImportBody(keys[i], fmt.Sprintf(`{"credentials":{"access_token":"a%d","refresh_token":%q,"expires_in":30}}`, i, refresh))
	}
	return store, keys
}

// A store that cannot do what is asked of it does as much as it can: each three of its
// requests are a refresh.
func TestOverloadedStoreDoesAsManyRefreshesAsItCan(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		connections, perSecond int
		measured               time.Duration
	}{{600, 30, 30 * time.Second}, {600, 5, 30 * time.Second}, {2000, 120, 20 * time.Second}} {
		t.Run(fmt.Sprintf("%d connections and %d requests a second", test.connections, test.perSecond), func(t *testing.T) {
			t.Parallel()
			virtually(t, func(t *testing.T, h *harness) { overload(t, h, test.connections, test.perSecond, test.measured) })
		})
	}
}

func overload(t *testing.T, h *harness, connections, perSecond int, measured time.Duration) {
	store, keys := startOnOrderly(h, connections)
	ctx, stop := context.WithCancel(t.Context())
	var c calls
	var running sync.WaitGroup
	running.Go(func() { c.load(ctx, h, keys) })
	time.Sleep(time.Minute)
	if _, failed, _, _ := c.reset(); failed > 0 {
		t.Fatalf("%d calls failed before the store was slow", failed)
	}

	store.limit(perSecond)
	time.Sleep(30 * time.Second)
	c.reset()
	refreshes, requests := len(h.provider.Requests()), store.count()
	for range 3 {
		time.Sleep(measured)
		done := len(h.provider.Requests()) - refreshes
		refreshes += done
		if could := int(measured.Seconds()) * perSecond / 3; done*10 < could*9 {
			t.Errorf("%d refreshes, though the store could do %d", done, could)
		}
	}
	good, failed, valid, held := c.reset()
	t.Logf("%d calls good, %d failed; %d with a valid token; %d requests to the store, at most %d at a time",
		good, failed, valid, store.count()-requests, store.most)
	if held > 0 {
		t.Errorf("%d of %d calls with a valid token failed or waited", held, valid)
	}
	if store.most > 64 {
		t.Errorf("%d requests were at the store at a time", store.most)
	}

	store.limit(0)
	time.Sleep(10 * time.Second)
	c.reset()
	time.Sleep(20 * time.Second)
	stop()
	running.Wait()
	if good, failed, _, held := c.reset(); failed > 0 || held > 0 {
		t.Errorf("%d calls good, %d failed and %d waited after the store was fast again", good, failed, held)
	}
	// All tokens expire together, so there are some seconds without a refresh.
	for message, level := range map[string]string{"the store is overloaded": "WARN", "the store is no longer overloaded": "INFO"} {
		if got := strings.Count(h.log.String(), "level="+level+` msg="`+message); got < 1 || got > 4 {
			t.Errorf("%q was logged %d times, want once for each time", message, got)
		}
	}
}

// What no caller waits for is not begun.
func TestRefreshIsNotBegunAfterItsCallersHaveLeft(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		store, keys := startOnOrderly(h, 200)
		time.Sleep(time.Minute) // all tokens have expired
		store.limit(1)
		before, refreshes := store.count(), len(h.provider.Requests())
		var running sync.WaitGroup
		for _, key := range keys {
			running.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
				defer cancel()
				if _, err := h.Source(key).Token(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, record.ErrStoreUnavailable) {
					t.Error(err)
				}
			})
		}
		running.Wait()
		synctest.Wait()
		atFirst := store.count() - before
		time.Sleep(5 * time.Minute) // until those that were begun have ended
		if got := store.count() - before; atFirst > 64+5 || got > 4*atFirst {
			t.Errorf("%d requests while callers waited, %d in all", atFirst, got)
		}
		if got := len(h.provider.Requests()) - refreshes; got > atFirst {
			t.Errorf("%d refreshes, though only %d requests were begun for a caller", got, atFirst)
		}
	})
}

// A refresh costs one load and two saves, and so does one that a caller waits for whose
// record was read long ago.
func TestRefreshCostsThreeRequests(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		store, keys := startOnOrderly(h, 1)
		for _, wait := range []time.Duration{25 * time.Second, 45 * time.Second, 10 * time.Minute} {
			time.Sleep(wait)
			before, refreshes := store.count(), len(h.provider.Requests())
			h.token(keys[0])
			synctest.Wait()
			if got := store.count() - before; got != 3 || len(h.provider.Requests()) != refreshes+1 {
				t.Errorf("%d requests for %d refreshes after %v, want 3 for 1", got, len(h.provider.Requests())-refreshes, wait)
			}
		}
	})
}
