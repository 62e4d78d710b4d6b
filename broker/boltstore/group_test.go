package boltstore_test

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	bolt "go.etcd.io/bbolt"

	"github.com/tokenbroker/caddy-token-broker/broker/boltstore"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

func TestChangesThatWaitShareATransaction(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	store := openStore(t, dir)
	transactions := counted(store)
	h := hold(t, store)
	var results []*result
	for i := range boltstore.MaxGroup + 1 {
		results = append(results, h.save(t.Context(), newRecord(strconv.Itoa(i), "token"), 0))
	}
	h.finish()
	for i, r := range results {
		if want := record.Revision(i + 1); r.rev != want || r.err != nil {
			t.Errorf("Save of %d = %d, %v; want %d", i, r.rev, r.err, want)
		}
	}
	if got, want := transactions(), 3; got != want { // that of hold, the first group, and what was too much for it
		t.Errorf("%d transactions, want %d", got, want)
	}
	closeStore(t, store)
	store = openStore(t, dir)
	for i, r := range results {
		if _, rev, err := store.Load(t.Context(), key(strconv.Itoa(i))); rev != r.rev || err != nil {
			t.Errorf("Load of %d = %d, %v; want %d", i, rev, err, r.rev)
		}
	}
}

func TestGroupIsBoundedInBytes(t *testing.T) {
	t.Parallel()
	store := openStore(t, t.TempDir())
	transactions := counted(store)
	h := hold(t, store)
	for i := range 3 {
		h.save(t.Context(), newRecord(strconv.Itoa(i), strings.Repeat("t", boltstore.MaxGroupBytes*2/3)), 0)
	}
	h.finish()
	if got, want := transactions(), 1+3; got != want {
		t.Errorf("%d transactions, want %d", got, want)
	}
}

// After a deletion bbolt merges pages, which must be checked beforehand: that is done for one.
func TestDeletionEndsItsGroup(t *testing.T) {
	t.Parallel()
	store := openStore(t, t.TempDir())
	transactions := counted(store)
	h := hold(t, store)
	h.save(t.Context(), newRecord("ann", "token"), 0)
	h.delete("ann")
	h.delete("bob")
	h.finish()
	if got, want := transactions(), 1+2; got != want {
		t.Errorf("%d transactions, want %d", got, want)
	}
}

func TestChangesInAGroupBehaveAsIfOneCameAfterTheOther(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	store := openStore(t, dir)
	first := save(t, store, newRecord("ann", "first"), 0)
	next := first + 1
	h := hold(t, store)
	steps := []struct {
		what string
		*result
		rev record.Revision
		err error
	}{
		{"a save", h.save(t.Context(), newRecord("ann", "second"), first), next, nil},
		{"a save of what was replaced in the group", h.save(t.Context(), newRecord("ann", "lost"), first), 0, record.ErrConflict},
		{"a save of a record that exists", h.save(t.Context(), newRecord("ann", "lost"), 0), 0, record.ErrConflict},
		{"a save of another record", h.save(t.Context(), newRecord("bob", "his"), 0), next + 1, nil},
		{"a save of a record that does not exist", h.save(t.Context(), newRecord("cyd", "lost"), 7), 0, record.ErrConflict},
		{"a save with a key that is too long", h.tooLarge(), 0, record.ErrRecordTooLarge},
		{"a save of what was saved in the group", h.save(t.Context(), newRecord("ann", "third"), next), next + 2, nil},
		{"a deletion of what was saved in the group", h.delete("bob"), 0, nil},
		{"a save of what was deleted", h.save(t.Context(), newRecord("bob", "new"), 0), next + 3, nil},
		{"a deletion of what does not exist", h.delete("cyd"), 0, nil},
		{"a save of what was saved before", h.save(t.Context(), newRecord("ann", "last"), next+2), next + 4, nil},
	}
	h.finish()
	for _, step := range steps {
		if step.result.rev != step.rev || !errors.Is(step.result.err, step.err) {
			t.Errorf("%s = %d, %v; want %d, %v", step.what, step.result.rev, step.result.err, step.rev, step.err)
		}
	}
	closeStore(t, store)
	store = openStore(t, dir)
	for consumer, want := range map[string]string{"ann": "last", "bob": "new"} {
		rec, _, err := store.Load(t.Context(), key(consumer))
		if err != nil || rec.Credentials.AccessToken.Reveal() != want {
			t.Errorf("Load of %s = %v, %v; want %s", consumer, rec, err, want)
		}
	}
}

func TestChangeWhoseCallerLeavesBeforeItsTransactionIsWithdrawn(t *testing.T) {
	t.Parallel()
	store := openStore(t, t.TempDir())
	h := hold(t, store)
	ctx, cancel := context.WithCancel(t.Context())
	kept := h.save(t.Context(), newRecord("ann", "token"), 0)
	withdrawn := h.save(ctx, newRecord("bob", "token"), 0)
	cancel()
	h.added--
	h.await(func() bool { return store.Waiting() == h.added })
	h.finish()
	if kept.rev != 1 || kept.err != nil {
		t.Errorf("Save of another record = %d, %v; want 1", kept.rev, kept.err)
	}
	if !errors.Is(withdrawn.err, context.Canceled) || !errors.Is(withdrawn.err, record.ErrStoreUnavailable) {
		t.Errorf("Save = %v, want ErrStoreUnavailable and context.Canceled", withdrawn.err)
	}
	if _, _, err := store.Load(t.Context(), key("bob")); !errors.Is(err, record.ErrNotFound) {
		t.Errorf("Load = %v, want ErrNotFound", err)
	}
}

func TestChangeWhoseCallerLeavesDuringItsTransactionHasItsResult(t *testing.T) {
	t.Parallel()
	store := openStore(t, t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	store.OnTransact(func(update func(func(*bolt.Tx) error) error, do func(*bolt.Tx) error) error {
		cancel()
		return update(do)
	})
	if rev, err := store.Save(ctx, newRecord("ann", "token"), 0); rev != 1 || err != nil {
		t.Errorf("Save = %d, %v; want 1", rev, err)
	}
}

func TestCloseWaitsForChangesThatWait(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	store := openStore(t, dir)
	h := hold(t, store)
	var results []*result
	for i := range boltstore.MaxGroup * 2 {
		results = append(results, h.save(t.Context(), newRecord(strconv.Itoa(i), "token"), 0))
	}
	closed := make(chan error, 1)
	go func() { closed <- store.Close() }()
	h.await(store.Closing)
	if _, err := store.Save(t.Context(), newRecord("late", "token"), 0); !errors.Is(err, record.ErrStoreUnavailable) {
		t.Errorf("Save during Close = %v, want ErrStoreUnavailable", err)
	}
	select {
	case err := <-closed:
		t.Fatalf("Close = %v, before the changes that it must wait for", err)
	default:
	}
	h.finish()
	if err := <-closed; err != nil {
		t.Errorf("Close = %v", err)
	}
	store = openStore(t, dir)
	for i, r := range results {
		if _, rev, err := store.Load(t.Context(), key(strconv.Itoa(i))); r.err != nil || rev != r.rev || err != nil {
			t.Errorf("Load of %d = %d, %v after Save = %d, %v", i, rev, err, r.rev, r.err)
		}
	}
}

func TestErrorOfTheDiskReachesEachChangeOfTheGroup(t *testing.T) {
	t.Parallel()
	for name, commits := range map[string]bool{"before the header": false, "after the header": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			store := openStore(t, dir)
			save(t, store, newRecord("ann", "token"), 0)
			store.OnTransact(failing(commits))
			h := hold(t, store)
			results := []*result{
				h.save(t.Context(), newRecord("bob", "token"), 0),
				h.save(t.Context(), newRecord("ann", "token"), 7), // a conflict if the group is written
				h.save(t.Context(), newRecord("cyd", "token"), 0),
				h.delete("ann"),
			}
			h.finish()
			for i, r := range results {
				if !errors.Is(r.err, syscall.EIO) || !errors.Is(r.err, record.ErrStoreUnavailable) || errors.Is(r.err, record.ErrConflict) || r.rev != 0 {
					t.Errorf("change %d = %d, %v; want EIO and ErrStoreUnavailable", i, r.rev, r.err)
				}
			}
			_, err := store.Save(t.Context(), newRecord("bob", "token"), 0)
			if refused := errors.Is(err, boltstore.ErrDamaged); refused != commits {
				t.Errorf("the next Save = %v; want an error that refuses changes: %v", err, commits)
			}
			closeStore(t, store)
			_, _, err = openStore(t, dir).Load(t.Context(), key("ann"))
			if got := errors.Is(err, record.ErrNotFound); got != commits {
				t.Errorf("Load = %v; what was written is deleted: %v", err, commits)
			}
		})
	}
}

// Many goroutines save the same few records. Each success must follow from the one before.
func TestConcurrentChangesOfTheSameRecordsAreCompared(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	store := openStore(t, dir)
	const consumers, writers, tries = 3, 24, 40
	var saves [consumers]int
	var mu sync.Mutex
	var wait sync.WaitGroup
	for w := range writers {
		consumer := w % consumers
		wait.Go(func() {
			for range tries {
				rec, rev, err := store.Load(t.Context(), key(strconv.Itoa(consumer)))
				if errors.Is(err, record.ErrNotFound) {
					rec, err = newRecord(strconv.Itoa(consumer), "token"), nil
				}
				if err != nil {
					t.Error(err)
					return
				}
				rec.Generation++
				switch _, err := store.Save(t.Context(), rec, rev); {
				case err == nil:
					mu.Lock()
					saves[consumer]++
					mu.Unlock()
				case !errors.Is(err, record.ErrConflict):
					t.Error(err)
					return
				}
			}
		})
	}
	wait.Wait()
	closeStore(t, store)
	store = openStore(t, dir)
	for consumer, want := range saves {
		rec, _, err := store.Load(t.Context(), key(strconv.Itoa(consumer)))
		if err != nil || rec.Generation != uint64(want) {
			t.Errorf("Load of %d = %v, %v; want generation %d, one for each successful save", consumer, rec, err, want)
		}
	}
}
