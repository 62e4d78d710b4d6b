package model

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// A trouble makes operations on a store, or token requests, fail for some time.
type trouble struct {
	until   time.Time
	percent int    // of the operations
	kind    string // one of storeTroubles or answerKinds; empty: any of them
}

// now reports whether the trouble strikes. The caller holds the world's mu.
func (t *trouble) now(w *world) bool {
	return !w.healed && time.Now().Before(t.until) && w.chance(t.percent)
}

// What can go wrong with an operation on the store.
const (
	storeFails     = "fails"     // it has no effect
	storeForgets   = "forgets"   // it has its effect, and the answer is lost
	storeHangs     = "hangs"     // it has its effect late
	storeConflicts = "conflicts" // a save is refused
)

var storeTroubles = []string{storeFails, storeForgets, storeHangs, storeConflicts}

// A processStore is the world's store as a process sees it.
type processStore struct{ *process }

// Load implements [record.Store].
func (s *processStore) Load(ctx context.Context, key record.Key) (rec *record.Record, rev record.Revision, err error) {
	err = s.do(ctx, "load", key, func() error {
		rec, rev, err = s.world.store.Load(ctx, key)
		if err == nil && rec.Lease != nil {
			if _, seen := s.seen[rec.Lease.ID]; !seen {
				s.seen[rec.Lease.ID] = time.Now()
			}
		}
		return err
	})
	if err != nil {
		return nil, 0, err
	}
	return rec, rev, nil
}

// Save implements [record.Store].
func (s *processStore) Save(ctx context.Context, rec *record.Record, rev record.Revision) (saved record.Revision, err error) {
	w := s.world
	w.mu.Lock()
	h := w.histories[rec.Key] // nil for the sweep's own record
	op := "save"
	if h != nil && rec.Lease != nil && (h.rec == nil || h.rec.Lease == nil || h.rec.Lease.ID != rec.Lease.ID) {
		op = "lease"
	}
	begun := time.Now()
	w.mu.Unlock()
	err = s.do(ctx, op, rec.Key, func() error {
		if saved, err = w.store.Save(ctx, rec, rev); err == nil && h != nil {
			h.saved(s.process, rec.Clone(), begun)
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	return saved, nil
}

// Delete implements [record.Store].
func (s *processStore) Delete(ctx context.Context, key record.Key) error {
	return s.do(ctx, "delete", key, func() error { return s.world.store.Delete(ctx, key) })
}

// DestroyEarlier implements [record.VersionedStore].
func (s *processStore) DestroyEarlier(ctx context.Context, key record.Key, rev record.Revision) error {
	return s.do(ctx, "destroy", key, func() error { return s.world.store.DestroyEarlier(ctx, key, rev) })
}

// List implements [record.Store].
func (s *processStore) List(ctx context.Context, application, consumer string) iter.Seq2[record.Key, error] {
	return func(yield func(record.Key, error) bool) {
		if err := s.do(ctx, "list", record.Key{}, func() error { return nil }); err != nil {
			yield(record.Key{}, err)
			return
		}
		s.world.store.List(ctx, application, consumer)(yield)
	}
}

// Shared implements [record.SharedStore].
func (s *processStore) Shared() bool { return s.world.store.Shared() }

// do runs one operation, with the trouble of the store. The world sees operations in the
// order in which they have their effect.
func (s *processStore) do(ctx context.Context, op string, key record.Key, operation func() error) error {
	if err := s.pass(op + ".before"); err != nil {
		return err
	}
	fault, delay := s.strike(op, key)
	if fault == storeHangs {
		_ = processClock{s.process}.Sleep(ctx, delay)
	}
	switch {
	case fault == storeConflicts:
		return fmt.Errorf("%s: %w", key, record.ErrConflict)
	case fault == storeFails:
		return fmt.Errorf("%w: %w", record.ErrStoreUnavailable, errTrouble)
	case ctx.Err() != nil:
		return fmt.Errorf("%w: %w", record.ErrStoreUnavailable, ctx.Err())
	}
	s.world.mu.Lock()
	err := operation()
	s.world.mu.Unlock()
	if passErr := s.pass(op + ".after"); passErr != nil {
		return passErr
	}
	if fault == storeForgets && (err == nil || errors.Is(err, record.ErrConflict)) {
		return fmt.Errorf("%w: %w", record.ErrStoreUnavailable, errTrouble)
	}
	return err
}

// strike draws what goes wrong with an operation; fault is empty if nothing does.
func (s *processStore) strike(op string, key record.Key) (fault string, delay time.Duration) {
	w := s.world
	w.mu.Lock()
	defer w.mu.Unlock()
	t := &s.replica.trouble
	if !t.now(w) {
		return "", 0
	}
	if fault = t.kind; fault == "" {
		fault = storeTroubles[w.rng.IntN(len(storeTroubles))]
	}
	if fault == storeConflicts && op != "save" && op != "lease" {
		return "", 0
	}
	s.disturb()
	w.logf("%s: %s of %s %s", s.name, op, key.Consumer, fault)
	return fault, between(w.rng, 100*time.Millisecond, 20*time.Second)
}

// A processJournal is the journal of a machine as a process sees it.
type processJournal struct{ *process }

// Check implements [record.Journal].
func (j *processJournal) Check(ctx context.Context) error {
	return j.do("check", "", func() error { return j.replica.journal.Check(ctx) })
}

// Put implements [record.Journal].
func (j *processJournal) Put(ctx context.Context, id string, data []byte) error {
	a := new(attempt)
	err := j.do("put", id, func() error {
		err := j.replica.journal.Put(ctx, id, data)
		if known := j.world.attempts[id]; known != nil {
			a = known
		}
		a.durable = a.durable || err == nil
		return err
	})
	j.world.mu.Lock()
	defer j.world.mu.Unlock()
	if err == nil {
		a.journaledAt = time.Now()
	} else {
		j.replica.unjournaledAt = time.Now()
	}
	return err
}

// Remove implements [record.Journal].
func (j *processJournal) Remove(ctx context.Context, id string) error {
	return j.do("remove", id, func() error { return j.replica.journal.Remove(ctx, id) })
}

// Entries implements [record.Journal].
func (j *processJournal) Entries(ctx context.Context) iter.Seq2[record.JournalEntry, error] {
	return func(yield func(record.JournalEntry, error) bool) {
		if err := j.do("entries", "", func() error { return nil }); err != nil {
			yield(record.JournalEntry{}, err)
			return
		}
		j.replica.journal.Entries(ctx)(func(entry record.JournalEntry, err error) bool {
			if err != nil {
				j.world.mu.Lock()
				j.disturb()
				j.world.mu.Unlock()
			}
			return yield(entry, err)
		})
	}
}

func (j *processJournal) do(op, id string, operation func() error) error {
	if err := j.pass("journal." + op + ".before"); err != nil {
		return err
	}
	j.world.mu.Lock()
	err := operation()
	if op == "put" || op == "remove" || err != nil {
		j.world.logf("%s: journal %s %.8s: %v", j.name, op, id, err)
	}
	if err != nil {
		j.disturb()
	}
	j.world.mu.Unlock()
	if passErr := j.pass("journal." + op + ".after"); passErr != nil {
		return passErr
	}
	return err
}

var (
	_ record.VersionedStore = (*processStore)(nil)
	_ record.SharedStore    = (*processStore)(nil)
	_ record.Journal        = (*processJournal)(nil)
)

// points are the steps of a refresh at which a process can pause or crash.
var points = []string{
	"load.after", "lease.before", "lease.after", "now", "send.before", "send.after", "answer",
	"save.before", "save.after", "journal.check.after", "journal.put.before", "journal.put.after",
	"journal.remove.before", "journal.remove.after", "journal.entries.after", "destroy.before", "wake", "open",
}
