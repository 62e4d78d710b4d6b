package broker_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker"
	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

func TestStoreOutageServesAValidToken(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		var down atomic.Bool
		h.store.Fail = func(string, record.Key) error {
			if !down.Load() {
				return nil
			}
			time.Sleep(5 * time.Second) // it hangs
			return record.ErrStoreUnavailable
		}
		h.mustImport("a1", "r1", issued(0))
		down.Store(true)
		time.Sleep(10 * time.Minute)
		begun := time.Now()
		for range 100 {
			if got := h.token(h.key); got != "a1" {
				t.Fatalf("got %q, want a1", got)
			}
		}
		if waited := time.Since(begun); waited > time.Second {
			t.Errorf("100 calls waited %v for the store", waited)
		}
		other := h.of("never read")
		if _, err := h.Source(other).Token(t.Context()); !errors.Is(err, record.ErrStoreUnavailable) {
			t.Errorf("got %v, want ErrStoreUnavailable", err)
		}
	})
}

func TestChangeByAnotherReplicaIsSeenWithinTheCacheTTL(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		both := replicas(t, 2)
		one, two := both[0], both[1]
		one.mustImport("a1", "r1", issued(0))
		two.token(two.key)
		time.Sleep(time.Second)
		one.mustImport("a2", "r2", issued(0))
		time.Sleep(record.DefaultCacheTTL)
		if got := two.token(two.key); got != "a2" {
			t.Errorf("got %q, want a2", got)
		}
	})
}

// While calls fail because of standby, what another replica does about it is seen within a second,
// at one request to the store a second.
func TestEndOfStandbyInAnotherReplicaIsSeenAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		both := replicas(t, 2)
		one, two := both[0], both[1]
		var loads atomic.Int64
		one.store.Fail = func(op string, _ record.Key) error {
			if op == brokertest.OpLoad {
				loads.Add(1)
			}
			return nil
		}
		wait := func() {
			before := loads.Load()
			for range 100 {
				time.Sleep(10 * time.Millisecond)
				two.wantStandbyError()
			}
			if got := loads.Load() - before; got > 2 {
				t.Errorf("100 calls in a second made %d loads, want at most 2", got)
			}
		}
		one.inStandby(2 * time.Hour)
		wait()
		one.importStandby(one.key, true, `{"credentials":{"access_token":"a2","refresh_token":"r2",`+issued(59*time.Minute)+`}}`)
		time.Sleep(time.Second)
		if got := two.token(two.key); got != "a2" {
			t.Errorf("got %q, want a2", got)
		}
		time.Sleep(time.Hour)
		one.provider.Grant("r2")
		wait()
		one.mustSwitch(one.Activate, broker.Selection{}, "1 changed")
		time.Sleep(time.Second)
		if got := two.token(two.key); got == "a2" {
			t.Errorf("got %q, want another token", got)
		}
	})
}

func TestCachedTokenIsHandedOutWithoutAllocating(t *testing.T) {
	source := cachedSources(t, 1)[0]
	ctx := context.Background()
	if got := testing.AllocsPerRun(1000, func() {
		if _, err := source.Token(ctx); err != nil {
			t.Error(err)
		}
	}); got != 0 {
		t.Errorf("got %v allocations, want none", got)
	}
}
