package storequeue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// A fakeStore answers a load after a time that depends on the loads it has.
type fakeStore struct {
	brokertest.MemStore

	mu     sync.Mutex
	takes  func(atStore int) time.Duration // guarded by mu
	begun  []string                        // guarded by mu; consumers
	now    int                             // guarded by mu; loads
	most   int                             // guarded by mu; loads at a time, since reset
	served int                             // guarded by mu
}

func (s *fakeStore) setTakes(takes func(atStore int) time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.takes = takes
}

// always is for setTakes.
func always(d time.Duration) func(int) time.Duration { return func(int) time.Duration { return d } }

// inOrder is for setTakes: one request after the other.
func inOrder(each time.Duration) func(int) time.Duration {
	return func(atStore int) time.Duration { return time.Duration(atStore) * each }
}

func (s *fakeStore) reset() (most, served int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	most, served = s.most, s.served
	s.most, s.served, s.begun = 0, 0, nil
	return most, served
}

func (s *fakeStore) order() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.begun)
}

// Load implements [record.Store].
func (s *fakeStore) Load(_ context.Context, key record.Key) (*record.Record, record.Revision, error) {
	s.mu.Lock()
	s.begun = append(s.begun, key.Consumer)
	s.now++
	s.most = max(s.most, s.now)
	took := s.takes(s.now)
	s.mu.Unlock()
	time.Sleep(took)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now--
	s.served++
	if took >= 10*time.Second {
		return nil, 0, fmt.Errorf("%w: no answer within 10s", record.ErrStoreUnavailable)
	}
	return &record.Record{Key: key}, 1, nil
}

func testKey(consumer string) record.Key {
	return record.Key{Application: "app", Consumer: consumer, Connector: connector.ID{UnifiedAPI: "crm", ServiceID: "acme"}}
}

// queued runs a test in virtual time, with a store that takes a second for each load and of
// which all places are taken for the first second.
func queued(t *testing.T, test func(t *testing.T, fake *fakeStore, s *Store)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		fake := &fakeStore{takes: always(time.Second)}
		s := New(fake, func(bool) {}, func(error) {})
		s.queue.bound.limit, s.queue.bound.adaptive = 1, false
		go func() { _, _, _ = s.Load(context.Background(), testKey("first")) }()
		synctest.Wait()
		fake.reset()
		test(t, fake, s)
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

// load makes a load in the background.
func load(ctx context.Context, s *Store, consumer string) <-chan error {
	ended := make(chan error, 1)
	go func() {
		_, _, err := s.Load(ctx, testKey(consumer))
		ended <- err
	}()
	synctest.Wait()
	return ended
}

func wantOrder(t *testing.T, fake *fakeStore, want ...string) {
	t.Helper()
	if got := fake.order(); !slices.Equal(got, want) {
		t.Errorf("requests began in the order %q, want %q", got, want)
	}
}

func TestMoreImportantRequestsBeginFirst(t *testing.T) {
	t.Parallel()
	queued(t, func(t *testing.T, fake *fakeStore, s *Store) {
		ctx := t.Context()
		now := time.Now()
		ahead := func(due time.Time) context.Context { return WithTicket(ctx, NewTicket(Refresh, Ahead, due)) }
		load(With(ctx, Idle), s, "idle")
		load(ahead(now.Add(2*time.Minute)), s, "ahead 2")
		load(ahead(now.Add(time.Minute)), s, "ahead 1")
		load(ahead(now.Add(-time.Minute)), s, "expired")
		load(ctx, s, "read 1")
		load(ctx, s, "read 2")
		load(With(ctx, Resume), s, "resume")
		load(With(ctx, Settle), s, "settle")
		time.Sleep(9 * time.Second)
		wantOrder(t, fake, "settle", "resume", "read 1", "read 2", "expired", "ahead 1", "ahead 2", "idle")
	})
}

func TestReadsAndRefreshesTakeTurns(t *testing.T) {
	t.Parallel()
	queued(t, func(t *testing.T, fake *fakeStore, s *Store) {
		for i := range 3 {
			load(t.Context(), s, fmt.Sprint("read ", i))
		}
		for i := range 3 {
			load(With(t.Context(), Refresh), s, fmt.Sprint("refresh ", i))
		}
		time.Sleep(7 * time.Second)
		wantOrder(t, fake, "refresh 0", "read 0", "refresh 1", "read 1", "refresh 2", "read 2")
	})
}

func TestCallerRaisesTheWorkThatItWaitsFor(t *testing.T) {
	t.Parallel()
	queued(t, func(t *testing.T, fake *fakeStore, s *Store) {
		waited, left := NewTicket(Refresh, Ahead, time.Time{}), NewTicket(Refresh, Ahead, time.Time{})
		left.Keep()
		leave := left.Wait()
		load(WithTicket(t.Context(), left), s, "left")
		load(With(t.Context(), Ahead), s, "ahead")
		load(WithTicket(t.Context(), waited), s, "waited")
		defer waited.Wait()()
		leave()
		time.Sleep(4 * time.Second)
		wantOrder(t, fake, "waited", "left", "ahead")
	})
}

func TestRequestThatNoCallerWaitsForIsNotBegun(t *testing.T) {
	t.Parallel()
	queued(t, func(t *testing.T, fake *fakeStore, s *Store) {
		ctx, cancel := context.WithCancel(t.Context())
		cancelled := load(ctx, s, "cancelled")
		ticket := NewTicket(Refresh, Ahead, time.Time{})
		leave := ticket.Wait()
		abandoned := load(WithTicket(t.Context(), ticket), s, "abandoned")
		kept := load(t.Context(), s, "kept")
		cancel()
		leave()
		synctest.Wait()
		if err := <-cancelled; !errors.Is(err, context.Canceled) || !errors.Is(err, record.ErrStoreUnavailable) {
			t.Errorf("the cancelled load returned %v", err)
		}
		if err := <-abandoned; !errors.Is(err, ErrAbandoned) {
			t.Errorf("the abandoned load returned %v", err)
		}
		if err := <-load(WithTicket(t.Context(), ticket), s, "abandoned"); !errors.Is(err, ErrAbandoned) {
			t.Errorf("the next load of the abandoned work returned %v", err)
		}
		if err := <-kept; err != nil {
			t.Error(err)
		}
		wantOrder(t, fake, "kept")
	})
}

func TestRequestKeepsItsPlaceUntilTheStoreAnswers(t *testing.T) {
	t.Parallel()
	queued(t, func(t *testing.T, fake *fakeStore, s *Store) {
		fake.setTakes(always(8 * time.Second))
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		if err := <-load(ctx, s, "given up"); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v after the deadline", err)
		}
		next := load(t.Context(), s, "next")
		time.Sleep(6 * time.Second)
		wantOrder(t, fake, "given up")
		if err := <-next; err != nil {
			t.Error(err)
		}
		wantOrder(t, fake, "given up", "next")
	})
}

func TestWaitIsBounded(t *testing.T) {
	t.Parallel()
	queued(t, func(t *testing.T, fake *fakeStore, s *Store) {
		fake.setTakes(always(25 * time.Second))
		load(t.Context(), s, "long")
		time.Sleep(2 * time.Second)
		begun := time.Now()
		if err := <-load(t.Context(), s, "late"); !errors.Is(err, record.ErrStoreUnavailable) || time.Since(begun) != maxWait {
			t.Errorf("got %v after %v", err, time.Since(begun))
		}
		if !s.IsBusy() {
			t.Error("the store does not count as busy")
		}
	})
}

// press keeps many loads waiting until ctx ends.
func press(ctx context.Context, s *Store) {
	for i := range 200 {
		go func() {
			for ctx.Err() == nil {
				_, _, _ = s.Load(ctx, testKey(strconv.Itoa(i)))
			}
		}()
	}
}

// The bound follows what the store can do, whichever way that changes.
func TestBoundFollowsTheLatency(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var reports []bool
		fake := &fakeStore{takes: always(5 * time.Millisecond)}
		s := New(fake, func(overloaded bool) { reports = append(reports, overloaded) }, func(error) {})
		ctx, stop := context.WithCancel(t.Context())
		press(ctx, s)
		for _, stage := range []struct {
			name        string
			takes       func(int) time.Duration
			settle      time.Duration
			least, most int // requests at the store at a time
			could       int // requests that the store could answer in 20 s
		}{
			{"as many as it gets", always(20 * time.Millisecond), time.Second, maxLimit, maxLimit, 1000 * maxLimit},
			{"30 a second", inOrder(time.Second / 30), 10 * time.Second, 2, 20, 20 * 30},
			{"500 a second", inOrder(time.Second / 500), 10 * time.Second, 2, 30, 20 * 500},
			{"5 a second", inOrder(time.Second / 5), 15 * time.Second, 2, 20, 20 * 5},
			{"none", always(12 * time.Second), 40 * time.Second, 1, 1, 1},
			{"as many as it gets, in another network", always(200 * time.Millisecond), time.Minute, maxLimit, maxLimit, 100 * maxLimit},
			{"as many as it gets, again", always(20 * time.Millisecond), 5 * time.Second, maxLimit, maxLimit, 1000 * maxLimit},
		} {
			fake.setTakes(stage.takes)
			time.Sleep(stage.settle)
			fake.reset()
			time.Sleep(20 * time.Second)
			if most, served := fake.reset(); most < stage.least || most > stage.most || served*10 < stage.could*9 {
				t.Errorf("%s: at most %d requests at the store, %d answered; want %d to %d, and %d",
					stage.name, most, served, stage.least, stage.most, stage.could)
			}
		}
		stop()
		time.Sleep(calmAfter)
		_, _, _ = s.Load(t.Context(), testKey("last"))
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		for i, overloaded := range reports {
			if overloaded != (i%2 == 0) {
				t.Fatalf("reports %v do not alternate", reports)
			}
		}
		if len(reports) < 2 || len(reports)%2 != 0 {
			t.Errorf("reports %v; want the beginning and the end of overload", reports)
		}
	})
}

func TestQueuedStoreKeepsTheContract(t *testing.T) {
	t.Parallel()
	brokertest.TestStore(t, func(*testing.T) record.Store { return New(&brokertest.MemStore{}, func(bool) {}, func(error) {}) })
}

// Keys are yielded without a place at the store, so that the caller can use it.
func TestListAllowsLoadsWithABoundOfOne(t *testing.T) {
	t.Parallel()
	queued(t, func(t *testing.T, _ *fakeStore, s *Store) {
		for i := range 3 {
			rec := &record.Record{Key: testKey("ann")}
			rec.Key.Connector.ServiceID = fmt.Sprint("service-", i)
			if _, err := s.Save(t.Context(), rec, 0); err != nil {
				t.Fatal(err)
			}
		}
		loaded := 0
		for key, err := range s.List(t.Context(), "app", "ann") {
			if err == nil {
				_, _, err = s.Load(t.Context(), key)
			}
			if err != nil {
				t.Fatal(err)
			}
			loaded++
		}
		if loaded != 3 {
			t.Errorf("%d keys, want 3", loaded)
		}
	})
}
