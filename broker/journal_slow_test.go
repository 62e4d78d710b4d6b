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

// A stuckStore does not answer while it is stuck, for ten seconds.
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

// Save implements [record.Store].
func (s slowStore) Save(ctx context.Context, rec *record.Record, rev record.Revision) (record.Revision, error) {
	if s.slow.Load() {
		time.Sleep(2 * time.Millisecond)
	}
	return s.Store.Save(context.WithoutCancel(ctx), rec, rev)
}

// A lateStore carries a save out some time after it was called, whether or not somebody
// waits for that.
type lateStore struct {
	record.Store
	delay func() time.Duration
}

// A slowStore takes its time to save, and takes no notice of who has gone meanwhile.
type slowStore struct {
	record.Store
	slow *atomic.Bool
}

// An impatientJournal does nothing for those who have gone, as that on disk.
type impatientJournal struct{ record.Journal }

// Remove implements [record.Journal].
func (j impatientJournal) Remove(ctx context.Context, id string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return j.Journal.Remove(ctx, id)
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
			t.Errorf("%d entries are in the journal, want 1", got)
		}

		// The process is killed, and the store recovers.
		abandon(t, h.Broker)
		stuck.Store(false)
		h.start()
		h.Start()
		synctest.Wait()
		if got := h.token(h.key); !strings.HasPrefix(got, "access-1-") {
			t.Errorf("got %q afterwards, want the token that was bought", got)
		}
		if got := len(h.provider.Requests()); got != 1 {
			t.Errorf("the token endpoint was asked %d times, want once", got)
		}
	})
}

// A save can be so slow that the answer is in the journal before it is done.
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
				rec := h.record(h.key)
				if got := rec.Credentials.AccessToken.Reveal(); got != token || rec.Lease != nil || rec.Generation != before+1 {
					t.Errorf("the record has %q, lease %v, generation %d; want %q, none, %d", got, rec.Lease, rec.Generation, token, before+1)
				}
				if got := h.journal.Len(); got != 0 {
					t.Errorf("%d entries are in the journal, want none", got)
				}
				if got := h.redeemed(); len(got) != 1 {
					t.Errorf("the token endpoint got %q, want r1 alone", got)
				}
				if strings.Contains(h.log.String(), "level=ERROR") {
					t.Errorf("a store that is slow is taken for one that fails: %s", h.log)
				}

				// The refresh token that is there is the one that works.
				h.provider.Deliver = nil
				time.Sleep(2 * time.Hour)
				if got := h.token(h.key); !strings.HasPrefix(got, "access-2-") {
					t.Errorf("got %q afterwards, want the second token", got)
				}
			})
		})
	}
}

// Every save begins with what could not be saved before, and whoever waits for it can go
// away when that has just been done.
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
			t.Fatalf("%d entries are in the journal, want 1", got)
		}
		down.Store(false)
		slow.Store(true)
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		imp, err := apideck.ParseImport([]byte(`{"settings":{"api_key":"k1"}}`))
		if err != nil {
			t.Fatal(err)
		}
		_, _, _ = h.Import(ctx, h.at(keyed), imp) // whatever has become of it
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := h.journal.Len(); got != 0 {
			t.Errorf("%d entries are in the journal, want none", got)
		}
	})
}
