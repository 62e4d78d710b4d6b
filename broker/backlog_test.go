package broker_test

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

func TestTokenIsServedFromMemoryUntilTheStoreTakesIt(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.provider.Grant("r1")
		down := h.failing()
		h.provider.Deliver = func(int) error { down.Store(true); return nil }
		h.mustImport("a1", "r1", issued(2*time.Hour))
		synctest.Wait()
		if got := h.token(h.key); !strings.HasPrefix(got, "access-1-") {
			t.Errorf("got %q, want the new token", got)
		}
		if err := h.Ready(t.Context()); !errors.Is(err, record.ErrStoreUnavailable) {
			t.Errorf("ready: got %v, want ErrStoreUnavailable", err)
		}
		time.Sleep(30 * time.Minute)
		h.token(h.key)
		down.Store(false)
		time.Sleep(10 * time.Second)
		if err := h.Ready(t.Context()); err != nil {
			t.Errorf("ready after the outage: %v", err)
		}
		h.wantRecord(h.key, recordWant{refresh: "refresh-1-"})
		if got := len(h.provider.Requests()); got != 1 {
			t.Errorf("got %d token requests, want 1", got)
		}
	})
}

// Neither the store nor the journal takes the new token: it is in memory only. It is served,
// and saved as soon as possible; until then readiness and the log say so.
func TestTokenThatNothingTakesIsServedAndSavedLater(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		down := h.importUnsavable()
		for range 10 {
			if got := h.token(h.key); !strings.HasPrefix(got, "access-1-") {
				t.Fatalf("got %q, want the new token", got)
			}
			if h.Ready(t.Context()) == nil {
				t.Error("ready, though a token is in memory only")
			}
			time.Sleep(5 * time.Minute)
		}
		h.wantLogged(1, slog.LevelError, "in memory only")
		down.Store(false)
		time.Sleep(10 * time.Second)
		h.wantRecord(h.key, recordWant{refresh: "refresh-1-"})
		h.journal.Fail(nil)
		if err := h.Ready(t.Context()); err != nil {
			t.Errorf("not ready: %v", err)
		}
	})
}

func TestSaveWhoseAnswerWasLostIsRecognised(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.provider.Grant("r1-" + brokertest.RefreshCanary)
		var lose, failed atomic.Bool
		h.provider.Respond = func(int, url.Values) (*http.Response, error) {
			if !failed.Swap(true) {
				return brokertest.Response(503, ""), nil // something to recover from
			}
			return nil, nil
		}
		h.provider.Deliver = func(int) error { lose.Store(true); return nil }
		h.store.FailAfter = func(op string, _ record.Key) error {
			if op == brokertest.OpSave && lose.Swap(false) {
				return record.ErrStoreUnavailable
			}
			return nil
		}
		h.mustImport("a1-"+brokertest.AccessCanary, "r1-"+brokertest.RefreshCanary, issued(2*time.Hour))
		time.Sleep(time.Minute)
		if got := h.token(h.key); !strings.HasPrefix(got, "access-1-") {
			t.Errorf("got %q, want the refreshed token", got)
		}
		if got := h.events.types(); got != "pending recovered" {
			t.Errorf("got events %q, want pending recovered", got)
		}
		if strings.Contains(string(h.store.Contents()), "a1-") {
			t.Error("the replaced credentials were not destroyed")
		}
		// The failed refresh is a warning. A dropped token would be another, and its merge with
		// what it finds in the store would raise the generation again.
		if got := h.logLines("level=WARN"); len(got) != 1 || !strings.Contains(got[0], string(record.EventRefreshPending)) {
			t.Errorf("got the warnings %q, want the failed refresh only", got)
		}
		h.wantRecord(h.key, recordWant{access: "access-1-", refresh: "refresh-1-", generation: 2})
	})
}

func TestExpiredTokenIsNotServedWhileASaveIsRetried(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		var readOnly atomic.Bool
		h.store.Fail = func(op string, _ record.Key) error {
			if op == brokertest.OpSave && readOnly.Load() {
				return record.ErrStoreUnavailable
			}
			return nil
		}
		h.provider.Grant("r1")
		h.provider.Deliver = func(n int) error { readOnly.Store(n == 1); return nil }
		h.mustImport("a1", "r1", issued(2*time.Hour))
		synctest.Wait()
		h.token(h.key)
		time.Sleep(2 * time.Hour)
		if _, err := h.Source(h.key).Token(t.Context()); !errors.Is(err, record.ErrStoreUnavailable) {
			t.Errorf("got %v, want ErrStoreUnavailable", err)
		}
		readOnly.Store(false)
		time.Sleep(time.Minute)
		h.token(h.key)
	})
}

// The store takes neither of two answers of one refresh: an import overtakes the first.
func TestSecondAnswerOfARefreshThatTheStoreDoesNotTake(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		down := h.failing()
		h.provider.Grant("r1")
		h.provider.Grant("r9")
		h.provider.Deliver = func(int) error { down.Store(true); return nil }
		h.mustImport("a1", "r1", issued(2*time.Hour))
		if got := h.token(h.key); !strings.HasPrefix(got, "access-1-") {
			t.Errorf("got %q, want the first token", got)
		}
		down.Store(false) // another replica imports
		rec := h.record(h.key)
		rec.Credentials.AccessToken, rec.Credentials.RefreshToken = secret.New("a9"), secret.New("r9")
		rec.Generation++
		rec.Lease = nil
		h.restore(rec)
		time.Sleep(10 * time.Second) // the second answer has come, and the store is down again
		if got := len(h.provider.Requests()); got != 2 {
			t.Fatalf("got %d token requests, want 2", got)
		}
		if !down.Load() {
			t.Fatal("the store is up")
		}
		down.Store(false)
		time.Sleep(10 * time.Second)
		if got := h.token(h.key); !strings.HasPrefix(got, "access-2-") {
			t.Errorf("got %q, want the second token", got)
		}
		h.wantRecord(h.key, recordWant{access: "access-2-"})
		if got := h.journal.Len(); got != 0 {
			t.Errorf("%d entries are in the journal, want none", got)
		}
	})
}

// After an outage many answers are pending, and the store is slow at first. All are saved
// before other replicas have watched the leases long enough to take them over.
func TestManyAnswersAreSavedBeforeTheirLeasesRunOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		both := replicas(t, 2)
		one, two, provider := both[0], both[1], both[0].provider
		const connections = 60
		one.configureConnector(acme, func(c *record.Connector) { c.RefreshRate, c.RefreshConcurrency = connections, connections })
		var down, slow atomic.Bool
		one.store.Fail = func(op string, _ record.Key) error {
			if down.Load() {
				return record.ErrStoreUnavailable
			}
			if slow.Load() && op == brokertest.OpSave {
				time.Sleep(time.Second)
			}
			return nil
		}
		var answered atomic.Int32
		provider.Deliver = func(int) error {
			time.Sleep(10 * time.Second)
			answered.Add(1)
			return nil
		}
		keys := make([]record.Key, connections)
		for i := range keys {
			keys[i] = one.importAs(fmt.Sprint("customer ", i), fmt.Sprint("r", i))
		}
		down.Store(true)
		time.Sleep(5 * time.Minute)
		if got := answered.Load(); got != connections {
			t.Fatalf("got %d answers, want %d", got, connections)
		}
		slow.Store(true)
		down.Store(false)
		var calls sync.WaitGroup
		for _, key := range keys {
			calls.Go(func() {
				for {
					if _, err := two.Source(key).Token(t.Context()); err == nil {
						return
					}
					time.Sleep(time.Second)
				}
			})
		}
		calls.Wait()
		if got := len(provider.Requests()); got != connections {
			t.Errorf("got %d token requests, want %d: nothing is sent twice", got, connections)
		}
	})
}

// A token was saved, and the store's answer lost. Before the broker finds out, an import
// brings a later access token for the same refresh token: it stays.
func TestAnswerIsNotBroughtBackOverALaterImport(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		var lose atomic.Bool
		h.store.FailAfter = func(op string, _ record.Key) error {
			if op == brokertest.OpSave && lose.Swap(false) {
				return record.ErrStoreUnavailable
			}
			return nil
		}
		h.provider.KeepRefresh = true
		h.provider.Grant("r1")
		h.provider.Deliver = func(int) error {
			time.Sleep(10 * time.Second)
			lose.Store(true)
			return nil
		}
		h.mustImport("a1", "r1", issued(2*time.Hour))
		time.Sleep(10 * time.Second)
		synctest.Wait()
		rec := h.wantRecord(h.key, recordWant{access: "access-1-"})
		rec.Generation++
		rec.Credentials.AccessToken, rec.Credentials.Redeemed, rec.Credentials.IssuedAt = secret.New("a9"), false, time.Now()
		h.restore(rec) // as another replica's import does
		time.Sleep(time.Minute)
		h.wantRecord(h.key, recordWant{access: "a9", generation: rec.Generation})
		if got := h.journal.Len(); got != 0 {
			t.Errorf("got %d entries in the journal, want none", got)
		}
	})
}

// failing makes the harness's store fail while the returned switch is true.
func (h *harness) failing() *atomic.Bool {
	var down atomic.Bool
	h.store.Fail = func(string, record.Key) error {
		if down.Load() {
			return fmt.Errorf("%w: sealed", record.ErrStoreUnavailable)
		}
		return nil
	}
	return &down
}

// importUnsavable imports a token and refreshes it while neither the store nor the journal
// takes anything. It returns the switch of the store.
func (h *harness) importUnsavable() (down *atomic.Bool) {
	h.t.Helper()
	down = h.failing()
	h.provider.Grant("r1")
	h.provider.Deliver = func(int) error {
		down.Store(true)
		h.journal.Fail(errors.New("no space left on device"))
		return nil
	}
	h.mustImport("a1", "r1", issued(2*time.Hour))
	synctest.Wait()
	return down
}
