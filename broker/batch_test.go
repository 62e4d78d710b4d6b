package broker_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker"
	"github.com/tokenbroker/caddy-token-broker/broker/apideck"
	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// row returns the row of a batch that imports a body.
func (h *harness) row(customer, body string) record.ImportRow {
	h.t.Helper()
	imp, err := apideck.ParseImport([]byte(body))
	if err != nil {
		h.t.Fatal(err)
	}
	return record.ImportRow{Key: h.of(customer), Import: imp}
}

// tokens returns the body of an import of tokens that are valid for an hour.
func tokens(access, refresh string) string {
	return fmt.Sprintf(`{"credentials":{"access_token":%q,"refresh_token":%q,%s}}`, access, refresh, issued(0))
}

// effects returns what the rows of a batch did: "created", or the error.
func effects(results []broker.RowImported) []string {
	var all []string
	for _, done := range results {
		if done.Err != nil {
			all = append(all, done.Err.Error())
			continue
		}
		effect := apideck.NewImportEffect(done.Outcome, done.Created, done.RefreshQueued)
		all = append(all, effect.Result+" "+effect.Refresh)
	}
	return all
}

func wantEffects(t *testing.T, results []broker.RowImported, want ...string) {
	t.Helper()
	got := effects(results)
	if len(got) != len(want) {
		t.Fatalf("got %q, want %q", got, want)
	}
	for i := range got {
		if !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("row %d: got %q, want %q", i, got[i], want[i])
		}
	}
}

// openExclusively opens the store as one that no other process uses: the number of requests
// at it does not depend on its latency.
func (h *harness) openExclusively() {
	h.t.Helper()
	h.store.Exclusive = true
	h.restart(broker.Options{
		Open:      func(context.Context) (record.Store, error) { return h.store, nil },
		Transport: h.transport(), Journal: h.journal,
	})
	h.mustImport("a", "r", issued(0))
	synctest.Wait()
}

func TestBatchStoresTheRowsThatCanBeStored(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		unknown := h.row("a", tokens("a1", "r1"))
		unknown.Key.Connector.ServiceID = "nobody"
		faulty := errors.New("a fault of the parser")
		rows := []record.ImportRow{
			h.row("a", tokens("a1", "r1")),
			{Err: faulty},
			unknown,
			h.row("b", `{"credentials":{"access_token":"a2"}}`),
			h.row("c", tokens("a3", "r3")),
			{Err: faulty},
		}
		results := h.ImportAll(t.Context(), rows, false)
		wantEffects(t, results, "created none", faulty.Error(), "no such connector", "credentials.refresh_token is required", "created none", faulty.Error())
		for customer, access := range map[string]string{"a": "a1", "c": "a3"} {
			if got := h.record(h.of(customer)).Credentials.AccessToken.Reveal(); got != access {
				t.Errorf("%s has the token %s, want %s", customer, got, access)
			}
		}
		if _, _, err := h.store.Load(t.Context(), h.of("b")); !errors.Is(err, record.ErrNotFound) {
			t.Errorf("a refused row was stored: %v", err)
		}
	})
}

func TestRowsOfOneConnectionAreImportedInTheirOrder(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		var rows []record.ImportRow
		for i := range 20 {
			rows = append(rows, h.row("a", tokens(fmt.Sprint("a", i), fmt.Sprint("r", i))), h.row("b", tokens("b", fmt.Sprint("s", i))))
		}
		rows = append(rows, h.row("a", tokens("a19", "r19")), h.row("a", tokens("a5", "r5")))
		var mu sync.Mutex
		busy := make(map[record.Key]bool)
		at := func(begins bool) func(string, record.Key) error {
			return func(op string, key record.Key) error {
				mu.Lock()
				defer mu.Unlock()
				if op == brokertest.OpSave && begins == busy[key] {
					t.Errorf("two imports of %s at a time", key)
				}
				if op == brokertest.OpSave {
					busy[key] = begins
				}
				return nil
			}
		}
		h.store.Fail, h.store.FailAfter = at(true), at(false)
		got := effects(h.ImportAll(t.Context(), rows, false))
		if got[0] != "created none" || got[2] != "updated none" || got[38] != "updated none" || got[40] != "kept none" || got[41] != "kept none" {
			t.Errorf("got %q", got)
		}
		if got := h.record(h.of("a")).Credentials.RefreshToken.Reveal(); got != "r19" {
			t.Errorf("the connection has %s, want the last new one, r19", got)
		}
	})
}

func TestBatchKeepsTheStoreBusyAndNoMore(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.openExclusively()
		var mu sync.Mutex
		var now, most int
		h.store.Fail = func(op string, _ record.Key) error {
			if op != brokertest.OpSave {
				return nil
			}
			mu.Lock()
			now++
			most = max(most, now)
			mu.Unlock()
			time.Sleep(time.Second)
			mu.Lock()
			now--
			mu.Unlock()
			return nil
		}
		var rows []record.ImportRow
		for i := range 200 {
			rows = append(rows, h.row(fmt.Sprint("c", i), tokens("a", "r")))
		}
		for i, got := range effects(h.ImportAll(t.Context(), rows, false)) {
			if got != "created none" {
				t.Errorf("row %d: got %s", i, got)
			}
		}
		if most < 16 || most > 32 {
			t.Errorf("%d rows at a time, want up to 32", most)
		}
	})
}

// What a caller is told to send again was not begun, so nothing of it is stored.
func TestRowsThatTheTimeDoesNotAllowAreNotBegun(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.openExclusively()
		h.store.Fail = func(string, record.Key) error { time.Sleep(2 * time.Second); return nil }
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		var rows []record.ImportRow
		for i := range 1000 {
			rows = append(rows, h.row(fmt.Sprint("c", i), tokens("a", "r")))
		}
		results := h.ImportAll(ctx, rows, false)
		if ctx.Err() != nil {
			t.Error("the batch used up all the time")
		}
		synctest.Wait()
		h.store.Fail = nil
		begun := 0
		for i, done := range results {
			_, _, err := h.store.Load(t.Context(), rows[i].Key)
			switch {
			case done.Err == nil && err == nil:
				begun++
			case errors.Is(done.Err, broker.ErrNotBegun) && errors.Is(err, record.ErrNotFound):
			default:
				t.Errorf("row %d: got %v, and the store %v", i, done.Err, err)
			}
		}
		if begun < 100 || begun > 900 {
			t.Errorf("%d rows were begun, want a part", begun)
		}
	})
}

// Otherwise the caller would send the earlier row again, and undo the later one.
func TestARowWaitsForAnEarlierOneOfItsConnectionThatFailed(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		failed := false
		h.store.Fail = func(op string, key record.Key) error {
			if op == brokertest.OpSave && key.Consumer == "a" && !failed {
				failed = true
				return record.ErrStoreUnavailable
			}
			return nil
		}
		rows := []record.ImportRow{
			h.row("a", tokens("a1", "r1")), h.row("b", tokens("b1", "s1")),
			h.row("a", `{"credentials":{}}`), h.row("a", tokens("a2", "r2")),
		}
		results := h.ImportAll(t.Context(), rows, false)
		wantEffects(t, results, "the store is unavailable", "created none", broker.ErrNotBegun.Error(), broker.ErrNotBegun.Error())
		wantEffects(t, h.ImportAll(t.Context(), []record.ImportRow{rows[0], rows[3]}, false), "created none", "updated none")
	})
}

func TestDryRunSaysWhatAnImportDoesAndStoresNothing(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.provider.Grant("r2")
		h.mustImport("a1", "r1", issued(0))
		synctest.Wait()
		before := string(h.store.Contents())
		var others atomic.Int32 // operations that do not read
		h.store.Fail = func(op string, _ record.Key) error {
			if op != brokertest.OpLoad {
				others.Add(1)
			}
			return nil
		}
		events := h.events.types()
		rows := []record.ImportRow{
			h.row("customer", tokens("a1", "r1")),                                           // as stored
			h.row("customer", `{"credentials":{"access_token":"a2","refresh_token":"r2"}}`), // of unknown expiry
			h.row("customer", tokens("a1", "r1")),                                           // the import before would have replaced it
			h.row("customer", `{"consumer_id":"other"}`),
			h.row("new", tokens("a3", "r3")),
			h.row("new", tokens("a3", "r3")),
			h.row("bad", `{"credentials":{"access_token":"a4"}}`),
		}
		want := []string{"kept none", "updated queued", "kept queued", "consumer_id is not", "created none", "kept none", "credentials.refresh_token is required"}
		wantEffects(t, h.ImportAll(t.Context(), rows, true), want...)
		time.Sleep(time.Minute)
		if after := string(h.store.Contents()); after != before {
			t.Error("the store has changed")
		}
		if others.Load() != 0 || len(h.provider.Requests()) != 0 || h.events.types() != events {
			t.Errorf("got %d writes, %d token requests, the events %q", others.Load(), len(h.provider.Requests()), h.events.types())
		}
		want[2] = "kept" // the refresh may have ended
		wantEffects(t, h.ImportAll(t.Context(), rows, false), want...)
	})
}
