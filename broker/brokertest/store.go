// Package brokertest supports tests of the broker and its adapters: the contract of stores,
// stores and journals in memory, a token endpoint, canaries, and child processes.
package brokertest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// storeDeadline bounds each operation on a store under test.
const storeDeadline = 30 * time.Second

// TestStore checks that a store keeps the contract of [record.Store], and those
// of [record.VersionedStore] and [record.ResumableStore] if it implements them. open returns an empty store that only the
// test writes to, and closes it with t.Cleanup if necessary.
func TestStore(t *testing.T, open func(t *testing.T) record.Store) {
	for name, test := range map[string]func(*testing.T, record.Store){
		"LoadOfNoRecordIsErrNotFound":        testLoadOfNothing,
		"CreateIsRefusedIfThereIsARecord":    testCreateOnly,
		"RecordIsStoredOrTooLargeForGood":    testTooLarge,
		"SaveOverNoRecordIsAConflict":        testSaveOverNothing,
		"StaleSaveStoresNothing":             testStaleSave,
		"ATombstoneIsARecord":                testTombstone,
		"RevisionsNeverRepeat":               testRevisionsNeverRepeat,
		"DeleteRemovesTheRecord":             testDelete,
		"EverythingInARecordSurvives":        testRoundTrip,
		"NumbersStayAsTheyWereWritten":       testNumbers,
		"HostileNamesAreKeptApart":           testHostileNames,
		"ListYieldsTheMatchingKeys":          testList,
		"ListAfterGoesOnBehindAKey":          testListAfter,
		"ListAllowsWritesAndAnEarlyEnd":      testListWhileWriting,
		"ConcurrentSavesLoseNothing":         testConcurrentSaves,
		"OneOfManyCreatesWins":               testConcurrentCreates,
		"ACancelledContextIsAnError":         testCancelled,
		"DestroyEarlierKeepsTheLatest":       testDestroyEarlier,
		"RecordsDoNotShareMemoryWithCallers": testNoSharing,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open(t))
		})
	}
}

func testLoadOfNothing(t *testing.T, s record.Store) {
	rec, rev, err := s.Load(storeContext(t), storeKey("absent"))
	if !errors.Is(err, record.ErrNotFound) || errors.Is(err, record.ErrStoreUnavailable) || rec != nil || rev != 0 {
		t.Errorf("Load = %v, %d, %v; want nil, 0, ErrNotFound", rec, rev, err)
	}
}

func testCreateOnly(t *testing.T, s record.Store) {
	rec := storeRecord(storeKey("ann"), 1)
	mustSave(t, s, rec, 0)
	rec.Generation = 2
	wantConflict(t, s, rec, 0)
	wantGeneration(t, s, rec.Key, 1)
}

func testSaveOverNothing(t *testing.T, s record.Store) {
	rec := storeRecord(storeKey("ann"), 1)
	wantConflict(t, s, rec, 3)
	if _, _, err := s.Load(storeContext(t), rec.Key); !errors.Is(err, record.ErrNotFound) {
		t.Errorf("Load after a conflict = %v, want ErrNotFound", err)
	}
}

func testStaleSave(t *testing.T, s record.Store) {
	rec := storeRecord(storeKey("ann"), 1)
	first := mustSave(t, s, rec, 0)
	rec.Generation = 2
	second := mustSave(t, s, rec, first)
	rec.Generation = 3
	wantConflict(t, s, rec, first)
	wantConflict(t, s, rec, second+1)
	if rev := wantGeneration(t, s, rec.Key, 2); rev != second {
		t.Errorf("revision after refused saves = %d, want %d", rev, second)
	}
}

func testTombstone(t *testing.T, s record.Store) {
	key := storeKey("ann")
	rev := mustSave(t, s, storeRecord(key, 1), 0)
	mustSave(t, s, &record.Record{Key: key, Deleted: storeTime}, rev)
	rec, _ := mustLoad(t, s, key)
	if !rec.Deleted.Equal(storeTime) || rec.Credentials != nil {
		t.Errorf("loaded Deleted %v, credentials %v; want %v, none", rec.Deleted, rec.Credentials, storeTime)
	}
	if got := listed(t, s, "", ""); !got[key] {
		t.Errorf("List = %v, want the tombstone's key in it", got)
	}
	wantConflict(t, s, storeRecord(key, 2), 0)
}

func testRevisionsNeverRepeat(t *testing.T, s record.Store) {
	key := storeKey("ann")
	seen := make(map[record.Revision]bool)
	var rev record.Revision
	for i := range 4 {
		rec := storeRecord(key, uint64(i))
		if i%2 == 1 {
			rec = &record.Record{Key: key, Deleted: storeTime}
		}
		rev = mustSave(t, s, rec, rev)
		if rev == 0 || seen[rev] {
			t.Fatalf("save %d: revision %d; want a new one other than 0", i, rev)
		}
		seen[rev] = true
		if _, loaded := mustLoad(t, s, key); loaded != rev {
			t.Fatalf("loaded revision %d, saved %d", loaded, rev)
		}
	}
}

// largeSize is the size of a record, in bytes, that some stores refuse.
const largeSize = 2 << 20

// testTooLarge: a store may have a limit, but an error that says so must not look like one
// that goes away.
func testTooLarge(t *testing.T, s record.Store) {
	rec := storeRecord(storeKey("ann"), 1)
	rev := mustSave(t, s, rec, 0)
	rec.Generation = 2
	rec.Metadata = map[string]any{"large": strings.Repeat("x", largeSize)}
	_, err := s.Save(storeContext(t), rec, rev)
	switch {
	case err == nil:
		wantGeneration(t, s, rec.Key, 2)
	case !errors.Is(err, record.ErrRecordTooLarge):
		t.Errorf("Save of %d bytes = %v, want nil or ErrRecordTooLarge", largeSize, err)
	case errors.Is(err, record.ErrStoreUnavailable), errors.Is(err, record.ErrConflict):
		t.Errorf("Save = %v, which matches ErrStoreUnavailable or ErrConflict too", err)
	default:
		wantGeneration(t, s, rec.Key, 1)
	}
}

func testDelete(t *testing.T, s record.Store) {
	ctx := storeContext(t)
	key, other := storeKey("ann"), storeKey("bob")
	rev := mustSave(t, s, storeRecord(key, 1), 0)
	mustSave(t, s, storeRecord(key, 2), rev)
	mustSave(t, s, storeRecord(other, 7), 0)
	for range 2 { // deleting a missing record is no error
		if err := s.Delete(ctx, key); err != nil {
			t.Fatalf("Delete: %v", err)
		}
	}
	if _, _, err := s.Load(ctx, key); !errors.Is(err, record.ErrNotFound) {
		t.Errorf("Load = %v, want ErrNotFound", err)
	}
	if got := listed(t, s, "", ""); got[key] || !got[other] {
		t.Errorf("List = %v, want only %v", got, other)
	}
	mustSave(t, s, storeRecord(key, 3), 0)
	wantGeneration(t, s, key, 3)
	wantGeneration(t, s, other, 7)
}

func testConcurrentSaves(t *testing.T, s record.Store) {
	const workers, each = 4, 10
	key := storeKey("ann")
	mustSave(t, s, storeRecord(key, 0), 0)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range each {
				if err := increment(t, s, key); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	wantGeneration(t, s, key, workers*each)
}

// increment adds one to the generation. It tries again after each conflict.
func increment(t *testing.T, s record.Store, key record.Key) error {
	ctx := storeContext(t)
	for {
		rec, rev, err := s.Load(ctx, key)
		if err != nil {
			return fmt.Errorf("Load: %w", err)
		}
		rec.Generation++
		if _, err = s.Save(ctx, rec, rev); err == nil {
			return nil
		}
		if !errors.Is(err, record.ErrConflict) {
			return fmt.Errorf("Save: %w", err)
		}
	}
}

func testConcurrentCreates(t *testing.T, s record.Store) {
	const workers = 8
	key := storeKey("ann")
	ctx := storeContext(t)
	results := make(chan error, workers)
	for i := range workers {
		go func() {
			_, err := s.Save(ctx, storeRecord(key, uint64(i)), 0)
			results <- err
		}()
	}
	won := 0
	for range workers {
		switch err := <-results; {
		case err == nil:
			won++
		case !errors.Is(err, record.ErrConflict):
			t.Errorf("Save = %v, want nil or ErrConflict", err)
		}
	}
	if won != 1 {
		t.Errorf("%d creates succeeded, want 1", won)
	}
}

func testCancelled(t *testing.T, s record.Store) {
	key := storeKey("ann")
	rev := mustSave(t, s, storeRecord(key, 1), 0)
	ctx, cancel := context.WithCancel(storeContext(t))
	cancel()
	_, _, loadErr := s.Load(ctx, key)
	_, saveErr := s.Save(ctx, storeRecord(key, 2), rev)
	var listErr error
	for _, listErr = range s.List(ctx, "", "") {
	}
	for op, err := range map[string]error{
		"Load": loadErr, "Save": saveErr, "Delete": s.Delete(ctx, key), "List": listErr,
	} {
		if !errors.Is(err, record.ErrStoreUnavailable) && !errors.Is(err, context.Canceled) {
			t.Errorf("%s = %v, want ErrStoreUnavailable or context.Canceled", op, err)
		}
	}
	wantGeneration(t, s, key, 1)
}

func testDestroyEarlier(t *testing.T, s record.Store) {
	versioned, ok := s.(record.VersionedStore)
	if !ok {
		return // it keeps no earlier revisions
	}
	key := storeKey("ann")
	var rev record.Revision
	for i := range 5 {
		rev = mustSave(t, s, storeRecord(key, uint64(i)), rev)
	}
	for range 2 {
		if err := versioned.DestroyEarlier(storeContext(t), key, rev); err != nil {
			t.Fatalf("DestroyEarlier: %v", err)
		}
	}
	wantGeneration(t, s, key, 4)
	mustSave(t, s, storeRecord(key, 5), rev)
	if err := versioned.DestroyEarlier(storeContext(t), storeKey("absent"), 3); err != nil {
		t.Errorf("DestroyEarlier without a record: %v", err)
	}
}

func testNoSharing(t *testing.T, s record.Store) {
	rec := storeRecord(storeKey("ann"), 1)
	rec.Settings = map[string]any{"list": []any{json.Number("1")}}
	mustSave(t, s, rec, 0)
	rec.Settings["list"].([]any)[0] = "changed"
	loaded, _ := mustLoad(t, s, rec.Key)
	if got := loaded.Settings["list"].([]any)[0]; got != json.Number("1") {
		t.Errorf("stored setting = %v, want 1", got)
	}
	loaded.Settings["list"].([]any)[0] = "changed"
	again, _ := mustLoad(t, s, rec.Key)
	if got := again.Settings["list"].([]any)[0]; got != json.Number("1") {
		t.Errorf("stored setting = %v, want 1", got)
	}
}

// storeTime has nanoseconds, which a store must preserve.
var storeTime = time.Date(2031, 2, 3, 4, 5, 6, 123456789, time.UTC)

func storeContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), storeDeadline)
	t.Cleanup(cancel)
	return ctx
}

func storeKey(consumer string) record.Key {
	return record.Key{Application: "app", Consumer: consumer, Connector: connector.ID{UnifiedAPI: "crm", ServiceID: "hubspot"}}
}

func storeRecord(key record.Key, generation uint64) *record.Record {
	return &record.Record{Key: key, Enabled: true, Generation: generation, CreatedAt: storeTime}
}

func mustSave(t *testing.T, s record.Store, rec *record.Record, rev record.Revision) record.Revision {
	t.Helper()
	saved, err := s.Save(storeContext(t), rec, rev)
	if err != nil {
		t.Fatalf("Save(%s, %d): %v", rec.Key, rev, err)
	}
	return saved
}

func mustLoad(t *testing.T, s record.Store, key record.Key) (*record.Record, record.Revision) {
	t.Helper()
	rec, rev, err := s.Load(storeContext(t), key)
	if err != nil {
		t.Fatalf("Load(%s): %v", key, err)
	}
	return rec, rev
}

func wantConflict(t *testing.T, s record.Store, rec *record.Record, rev record.Revision) {
	t.Helper()
	got, err := s.Save(storeContext(t), rec, rev)
	if !errors.Is(err, record.ErrConflict) || errors.Is(err, record.ErrStoreUnavailable) {
		t.Errorf("Save(%s, %d) = %d, %v; want ErrConflict", rec.Key, rev, got, err)
	}
}

func wantGeneration(t *testing.T, s record.Store, key record.Key, want uint64) record.Revision {
	t.Helper()
	rec, rev := mustLoad(t, s, key)
	if rec.Generation != want {
		t.Errorf("stored generation of %s = %d, want %d", key, rec.Generation, want)
	}
	return rev
}
