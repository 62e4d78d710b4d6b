package broker_test

import (
	"errors"
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
