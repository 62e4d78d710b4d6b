package broker_test

import (
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

func TestSweepRemovesOldTombstones(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.mustImport("a1", "r1", issued(0))
		if err := h.Delete(t.Context(), h.key); err != nil {
			t.Fatal(err)
		}
		time.Sleep(23 * time.Hour)
		if rec := h.record(h.key); !rec.IsTombstone() {
			t.Error("no tombstone")
		}
		time.Sleep(3 * time.Hour)
		if _, _, err := h.store.Load(t.Context(), h.key); !errors.Is(err, record.ErrNotFound) {
			t.Errorf("got %v, want ErrNotFound", err)
		}
		h.mustImport("a2", "r2", issued(0))
		if got := h.token(h.key); got != "a2" {
			t.Errorf("after another import: got %q, want a2", got)
		}
	})
}

// A connection is imported again at the moment its tombstone is removed. It stays.
func TestImportWhileItsTombstoneIsRemovedIsNotLost(t *testing.T) {
	t.Parallel()
	for name, removed := range map[string]bool{"it is removed": true, "the process dies before": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			virtually(t, func(t *testing.T, h *harness) {
				imported := make(chan error, 1)
				var deletes atomic.Int32
				h.store.Fail = func(op string, _ record.Key) error {
					if op != brokertest.OpDelete || deletes.Add(1) > 1 {
						return nil
					}
					go func() {
						_, _, err := h.importBody(h.key, `{"credentials": {"access_token": "a2", "refresh_token": "r2"}}`)
						imported <- err
					}()
					time.Sleep(3 * time.Second) // the request is on its way
					if !removed {
						return record.ErrStoreUnavailable
					}
					return nil
				}
				h.mustImport("a1", "r1", issued(0))
				if err := h.Delete(t.Context(), h.key); err != nil {
					t.Fatal(err)
				}
				time.Sleep(26 * time.Hour)
				if deletes.Load() != 1 {
					t.Fatalf("%d records were deleted, want one", deletes.Load())
				}
				if err := <-imported; err != nil {
					t.Errorf("the import: %v", err)
				}
				if rec := h.wantRecord(h.key, recordWant{access: "a2"}); rec.IsTombstone() {
					t.Error("the connection is deleted")
				}
			})
		})
	}
}

func TestSweepFinishesARefreshThatACrashLost(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.provider.Grant("r1")
		rec := &record.Record{Key: h.key, Enabled: true, Generation: 1, Cycle: record.Cycle{Queued: true}, Credentials: &record.Credentials{
			AccessToken: secret.New("a1"), RefreshToken: secret.New("r1"), FromImport: true,
		}}
		if _, err := h.store.Save(t.Context(), rec, 0); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Connection(t.Context(), h.at(long)); !errors.Is(err, record.ErrConnectionNotFound) {
			t.Fatal(err) // the sweep begins with the first use of the store
		}
		time.Sleep(15 * time.Minute)
		if rec := h.wantRecord(h.key, recordWant{access: "access-1-"}); rec.Cycle.Queued {
			t.Error("the refresh is still queued")
		}
	})
}

func TestKeepAliveRedeemsARefreshTokenThatNobodyUses(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.configure(func(cfg *record.Config) { cfg.RefreshIdle = -1 })
		h.configureConnector(acme, func(c *record.Connector) { c.KeepAlive = 7 * 24 * time.Hour })
		h.provider.Grant("r1")
		h.mustImport("a1", "r1", issued(0))
		for range 30 * 24 {
			time.Sleep(time.Hour)
		}
		// One every 5.25 days: before the week is over.
		if got := len(h.provider.Requests()); got != 5 {
			t.Errorf("got %d token requests in 30 days, want 5", got)
		}
	})
}

func TestOneReplicaSweepsAtATime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		all := replicas(t, 3)
		var listing, most atomic.Int32
		over := make(chan struct{})
		all[0].store.Fail = func(op string, _ record.Key) error {
			if op == brokertest.OpList {
				most.Store(max(most.Load(), listing.Add(1)))
				select {
				case <-time.After(4 * time.Minute):
				case <-over:
				}
				listing.Add(-1)
			}
			return nil
		}
		for _, h := range all {
			h.mustImport("a1", "r1", issued(0))
		}
		t.Cleanup(func() { close(over) })
		time.Sleep(2 * time.Hour)
		if got := most.Load(); got != 1 {
			t.Errorf("%d replicas swept at a time, want 1", got)
		}
	})
}

// firstSweep is the latest that the first sweep of a process begins.
const firstSweep = 12 * time.Minute

// A sweepLog counts how often each record of a slow store is loaded.
type sweepLog struct {
	mu    sync.Mutex
	loads map[record.Key]int // guarded by mu
	total int                // guarded by mu
}

// newSweepLog saves n connections that need nothing, and counts their loads from then on. Each
// takes a tenth of a second.
func newSweepLog(h *harness, n int) *sweepLog {
	l := &sweepLog{loads: make(map[record.Key]int)}
	for i := range n {
		h.saveIdle(fmt.Sprintf("customer-%03d", i), "r", 0)
	}
	h.store.Fail = func(op string, key record.Key) error {
		if op == brokertest.OpLoad && key.Connector == acme {
			time.Sleep(100 * time.Millisecond)
			l.mu.Lock()
			l.loads[key]++
			l.total++
			l.mu.Unlock()
		}
		return nil
	}
	return l
}

func (l *sweepLog) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.total
}

// all returns how often each record was loaded.
func (l *sweepLog) all() map[record.Key]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.loads)
}

// use makes the harness's broker open the store, so that it begins to sweep.
func (h *harness) use() {
	h.t.Helper()
	if _, err := h.Connection(h.t.Context(), h.at(long)); !errors.Is(err, record.ErrConnectionNotFound) {
		h.t.Fatal(err)
	}
}

// waitFor waits until a condition holds, and fails if it takes longer than limit. It looks a
// thousand times.
func (h *harness) waitFor(what string, limit time.Duration, condition func() bool) {
	h.t.Helper()
	for begun := time.Now(); !condition(); time.Sleep(limit / 1000) {
		if time.Since(begun) > limit {
			h.t.Fatalf("%s: not within %v", what, limit)
		}
	}
}

// A sweep takes no more than a fifth of the time of a slow store.
func TestSweepTakesAShareOfTheStore(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		l := newSweepLog(h, 300)
		h.use()
		h.waitFor("the sweep", firstSweep, func() bool { return l.count() > 1 })
		before := l.count()
		time.Sleep(time.Minute)
		if got := l.count() - before; got < 110 || got > 121 {
			t.Errorf("got %d loads of a tenth of a second in a minute, want 120", got)
		}
	})
}

// A process that is stopped during a sweep gives the lease back, and the next one goes on
// behind the last record.
func TestSweepGoesOnInTheNextProcess(t *testing.T) {
	t.Parallel()
	const connections = 1000
	virtually(t, func(t *testing.T, h *harness) {
		l := newSweepLog(h, connections)
		h.use()
		for restarts := range 3 {
			h.waitFor("the sweep", firstSweep+5*time.Minute, func() bool { return l.count() >= 250*(restarts+1) })
			if err := h.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			h.start()
			h.use()
		}
		h.waitFor("the end of the sweep", firstSweep+5*time.Minute, func() bool { return len(h.logLines("sweep finished")) > 0 })
		swept := l.all()
		repeated := 0
		for _, loads := range swept {
			repeated += loads - 1
		}
		if repeated > 3 { // the load that a stop interrupts is repeated
			t.Errorf("%d loads were repeated after 3 restarts", repeated)
		}
		if got := len(swept); got != connections {
			t.Errorf("%d records were swept, want %d", got, connections)
		}
		h.waitFor("another sweep", firstSweep+10*time.Minute, func() bool { return l.count() >= 2*connections })
	})
}

// A process that is killed during a sweep leaves a position that is not much older.
func TestSweepGoesOnAfterACrash(t *testing.T) {
	t.Parallel()
	const connections = 1000
	virtually(t, func(t *testing.T, h *harness) {
		l := newSweepLog(h, connections)
		var crashed atomic.Bool
		count := h.store.Fail
		h.store.Fail = func(op string, key record.Key) error {
			if crashed.Load() {
				return record.ErrStoreUnavailable
			}
			return count(op, key)
		}
		h.use()
		h.waitFor("the sweep", firstSweep+5*time.Minute, func() bool { return l.count() >= 500 })
		crashed.Store(true)
		if err := h.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		crashed.Store(false)
		h.start()
		h.use()
		h.waitFor("the end of the sweep", 3*firstSweep, func() bool { return len(h.logLines("sweep finished")) > 0 })
		if got := l.count(); got < connections || got > connections+320 { // the position is stored every 150 s
			t.Errorf("got %d loads for %d connections", got, connections)
		}
	})
}

// A record that cannot be read does not keep the others from being swept.
func TestSweepGoesOnBehindARecordThatCannotBeRead(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		l := newSweepLog(h, 30)
		count := h.store.Fail
		h.store.Fail = func(op string, key record.Key) error {
			if op == brokertest.OpLoad && key == h.of("customer-010") {
				return record.ErrStoreUnavailable
			}
			return count(op, key)
		}
		h.use()
		time.Sleep(5 * firstSweep)
		swept := l.all()
		for i := range 30 {
			if key := h.of(fmt.Sprintf("customer-%03d", i)); swept[key] < 2 && i != 10 {
				t.Errorf("%s was swept %d times in an hour", key, swept[key])
			}
		}
	})
}
