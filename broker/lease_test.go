package broker_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// The lease took so long to save that an answer could come after another replica has taken
// it over.
func TestLeaseThatWasSavedTooLateIsGivenBack(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		var slow atomic.Bool
		h.store.Fail = func(op string, _ record.Key) error {
			if op == brokertest.OpSave && slow.Swap(false) {
				time.Sleep(21 * time.Second) // the lease lasts 45 s, the request may take 20 and saving 5
			}
			return nil
		}
		h.provider.Grant("r1")
		h.mustImport("a1", "r1", issued(0))
		time.Sleep(2 * time.Hour)
		slow.Store(true)
		if _, err := h.Source(h.key).Token(t.Context()); !errors.Is(err, record.ErrStoreUnavailable) {
			t.Errorf("got %v, want ErrStoreUnavailable", err)
		}
		if got := len(h.provider.Requests()); got != 0 {
			t.Errorf("got %d token requests, want none", got)
		}
		h.wantRecord(h.key, recordWant{ambiguous: 0})
		if got := h.token(h.key); !strings.HasPrefix(got, "access-1-") {
			t.Errorf("the next call got %q, want the refreshed token", got)
		}
	})
}

func TestLeaseOfADeadReplicaIsTakenOverAfterItsDuration(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.provider.Grant("r1")
		leaveLease(t, h)
		begun := time.Now()
		h.token(h.key)
		if waited := time.Since(begun); waited < 45*time.Second || waited > 47*time.Second {
			t.Errorf("took over after %v, want 45s", waited)
		}
		h.wantRecord(h.key, recordWant{access: "access-1-", ambiguous: 0})
	})
}

func TestFailedReadInterruptsTheObservationOfALease(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.provider.Grant("r1")
		leaveLease(t, h)
		begun := time.Now()
		h.store.Fail = func(op string, _ record.Key) error {
			if at := time.Since(begun); op == brokertest.OpLoad && at > 30*time.Second && at < 31*time.Second {
				return record.ErrStoreUnavailable
			}
			return nil
		}
		for {
			_, err := h.Source(h.key).Token(t.Context())
			if err == nil {
				break
			}
			if !errors.Is(err, record.ErrStoreUnavailable) {
				t.Fatal(err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if waited := time.Since(begun); waited < 75*time.Second {
			t.Errorf("took over after %v, want 45s after the failed read at 30s", waited)
		}
	})
}

func TestLeaseOfAnEarlierProcessIsTakenOverAtOnceOnAnExclusiveStore(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.store.Exclusive = true
		h.provider.Grant("r1")
		leaveLease(t, h)
		begun := time.Now()
		h.token(h.key)
		if waited := time.Since(begun); waited != 0 {
			t.Errorf("took over after %v, want at once", waited)
		}
	})
}

func TestRefusalAfterATakeoverWaitsForTheFormerHolder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		both := replicas(t, 2)
		slow, h, provider := both[0], both[1], both[0].provider
		provider.Grant("r1")
		// The first replica sends its token request, and is paused before it can save.
		paused := make(chan struct{})
		var slowly atomic.Bool
		provider.Deliver = func(n int) error {
			if n == 1 {
				slowly.Store(true)
				<-paused
			}
			return nil
		}
		slow.mustImport("a1", "r1", issued(2*time.Hour))
		synctest.Wait()
		if !slowly.Load() {
			t.Fatal("the first replica has sent no token request")
		}
		result := make(chan error, 1)
		go func() {
			_, err := h.Source(h.key).Token(context.Background())
			result <- err
		}()
		time.Sleep(50 * time.Second) // long enough for a takeover, which is refused
		synctest.Wait()
		if got := len(provider.Requests()); got != 2 {
			t.Fatalf("got %d token requests, want 2", got)
		}
		close(paused)
		if err := <-result; err != nil {
			t.Errorf("the second replica did not adopt the token of the first: %v", err)
		}
		if rec := h.wantRecord(h.key, recordWant{access: "access-1-"}); rec.IsParked() {
			t.Error("the connection is parked")
		}
		if got := h.events.types() + slow.events.types(); got != "" {
			t.Errorf("got events %q, want none", got)
		}
	})
}

// leaveLease stores an expired connection with the lease of a process that is gone.
func leaveLease(t *testing.T, h *harness) {
	t.Helper()
	rec := &record.Record{
		Key: h.key, Enabled: true, Generation: 1,
		Credentials: &record.Credentials{
			AccessToken: secret.New("a1"), RefreshToken: secret.New("r1"),
			IssuedAt: time.Now().Add(-2 * time.Hour), Expiry: time.Now().Add(-time.Hour), FromImport: true,
		},
		Lease: &record.Lease{ID: "gone", Duration: 45 * time.Second, RefreshToken: secret.New("r1").Hash()},
	}
	if _, err := h.store.Save(t.Context(), rec, 0); err != nil {
		t.Fatal(err)
	}
}
