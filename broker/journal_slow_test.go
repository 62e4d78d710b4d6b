package broker_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/apideck"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// A stuckStore fails after ten seconds while it is stuck.
type stuckStore struct {
	record.Store
	stuck *atomic.Bool
}

func (s stuckStore) wait(ctx context.Context) error {
	if !s.stuck.Load() {
		return nil
	}
	select {
	case <-ctx.Done():
	case <-time.After(10 * time.Second):
	}
	return fmt.Errorf("%w: no answer", record.ErrStoreUnavailable)
}

// Load implements [record.Store].
func (s stuckStore) Load(ctx context.Context, key record.Key) (*record.Record, record.Revision, error) {
	if err := s.wait(ctx); err != nil {
		return nil, 0, err
	}
	return s.Store.Load(ctx, key)
}

// Save implements [record.Store].
func (s stuckStore) Save(ctx context.Context, rec *record.Record, rev record.Revision) (record.Revision, error) {
	if err := s.wait(ctx); err != nil {
		return 0, err
	}
	return s.Store.Save(ctx, rec, rev)
}

func TestAnswerIsInTheJournalSoonIfTheStoreHangs(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		var stuck atomic.Bool
		h.startOn(stuckStore{h.store, &stuck}, h.journal)
		h.provider.Grant("r1")
		h.provider.Deliver = func(int) error { stuck.Store(true); return nil }
		h.mustImport("a1", "r1", issued(2*time.Hour))
		time.Sleep(3 * time.Second)
		if got := h.journal.Len(); got != 1 {
			t.Errorf("got %d entries in the journal, want 1", got)
		}

		// The process is killed, and the store recovers.
		abandon(t, h.Broker)
		stuck.Store(false)
		h.start()
		h.Start()
		synctest.Wait()
		if got := h.token(h.key); !strings.HasPrefix(got, "access-1-") {
			t.Errorf("got %q afterwards, want the token that was refreshed before", got)
		}
		if got := len(h.provider.Requests()); got != 1 {
			t.Errorf("got %d token requests, want 1", got)
		}
	})
}

// A lateStore delays each save, and then makes it even if the caller is gone.
type lateStore struct {
	record.Store
	delay func() time.Duration
}

// Save implements [record.Store].
func (s lateStore) Save(ctx context.Context, rec *record.Record, rev record.Revision) (record.Revision, error) {
	type result struct {
		rev record.Revision
		err error
	}
	rec, done := rec.Clone(), make(chan result, 1)
	go func() {
		time.Sleep(s.delay())
		saved, err := s.Store.Save(context.WithoutCancel(ctx), rec, rev)
		done <- result{saved, err}
	}()
	select {
	case r := <-done:
		return r.rev, r.err
	case <-ctx.Done():
		return 0, fmt.Errorf("%w: %w", record.ErrStoreUnavailable, ctx.Err())
	}
}

// A save may take so long that the answer goes into the journal first.
func TestSlowSaveIsDoneOnce(t *testing.T) {
	t.Parallel()
	for _, late := range []time.Duration{2 * time.Second, 2050 * time.Millisecond, 2150 * time.Millisecond, 10 * time.Second} {
		t.Run(late.String(), func(t *testing.T) {
			t.Parallel()
			virtually(t, func(t *testing.T, h *harness) {
				var hangs atomic.Bool
				h.startOn(lateStore{h.store, func() time.Duration {
					if hangs.CompareAndSwap(true, false) {
						return late
					}
					return 100 * time.Millisecond
				}}, h.journal)
				h.provider.Grant("r1")
				h.provider.Deliver = func(int) error { hangs.Store(true); return nil }
				h.mustImport("a1", "r1", issued(2*time.Hour))
				before := h.record(h.key).Generation
				token := h.token(h.key)
				time.Sleep(time.Minute)
				synctest.Wait()
				h.wantRecord(h.key, recordWant{access: token, generation: before + 1})
				if got := h.journal.Len(); got != 0 {
					t.Errorf("got %d entries in the journal, want none", got)
				}
				if got := h.redeemed(); len(got) != 1 {
					t.Errorf("redeemed %q, want r1 only", got)
				}
				if got := h.logLines("level=ERROR"); len(got) > 0 {
					t.Errorf("a slow store is taken for a failing one: %q", got)
				}

				// The stored refresh token works.
				h.provider.Deliver = nil
				time.Sleep(2 * time.Hour)
				if got := h.token(h.key); !strings.HasPrefix(got, "access-2-") {
					t.Errorf("got %q afterwards, want the second token", got)
				}
			})
		})
	}
}

// A slowStore takes some time to save, and saves even if the caller is gone.
type slowStore struct {
	record.Store
	slow *atomic.Bool
}

// Save implements [record.Store].
func (s slowStore) Save(ctx context.Context, rec *record.Record, rev record.Revision) (record.Revision, error) {
	if s.slow.Load() {
		time.Sleep(2 * time.Millisecond)
	}
	return s.Store.Save(context.WithoutCancel(ctx), rec, rev)
}

// An impatientJournal removes nothing once the context has ended, as the journal on disk.
type impatientJournal struct{ record.Journal }

// Remove implements [record.Journal].
func (j impatientJournal) Remove(ctx context.Context, id string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return j.Journal.Remove(ctx, id)
}

// Every save begins with the pending answers. The caller that waits for it may go away just
// when they are saved.
func TestJournalForgetsWhatWasSavedForSomebodyWhoHasGone(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		down := h.failing()
		var slow atomic.Bool
		h.startOn(slowStore{h.store, &slow}, impatientJournal{h.journal})
		h.provider.Grant("r1")
		h.provider.Deliver = func(int) error { down.Store(true); return nil }
		h.mustImport("a1", "r1", issued(2*time.Hour))
		h.token(h.key)
		if got := h.journal.Len(); got != 1 {
			t.Fatalf("got %d entries in the journal, want 1", got)
		}
		down.Store(false)
		slow.Store(true)
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		imp, err := apideck.ParseImport([]byte(`{"settings":{"api_key":"k1"}}`))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = h.Import(ctx, h.at(keyed), imp) // it may succeed or not
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := h.journal.Len(); got != 0 {
			t.Errorf("got %d entries in the journal, want none", got)
		}
	})
}
