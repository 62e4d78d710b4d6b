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
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// failing makes the harness's store fail while the returned switch is on.
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

func TestAnswerThatTheStoreDoesNotTakeSurvivesACrash(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		down := h.failing()
		h.provider.Grant("r1")
		h.provider.Deliver = func(int) error { down.Store(true); return nil }
		h.mustImport("a1", "r1", issued(2*time.Hour))
		synctest.Wait()
		if got := h.journal.Len(); got != 1 {
			t.Fatalf("got %d entries in the journal, want 1", got)
		}
		crashed := h.Broker
		h.start() // the crashed one goes on failing, which changes nothing
		if _, err := h.Source(h.key).Token(t.Context()); !errors.Is(err, record.ErrStoreUnavailable) {
			t.Errorf("got %v, want ErrStoreUnavailable", err)
		}
		abandon(t, crashed)
		down.Store(false)
		if got := h.token(h.key); !strings.HasPrefix(got, "access-1-") {
			t.Errorf("got %q, want the token that the journal has", got)
		}
		h.mustImport("a9", "r9", issued(0)) // a write: the journal goes first
		if rec := h.record(h.key); len(rec.Replaced) != 1 {
			t.Error("the journal's answer was not saved before the import")
		}
		if got := h.journal.Len(); got != 0 {
			t.Errorf("got %d entries in the journal afterwards, want none", got)
		}
	})
}

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

// A refresh can end twice in an answer that the store does not take: the first one is
// overtaken by an import.
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
		down.Store(false) // and another replica imports
		rec := h.record(h.key)
		rec.Credentials.AccessToken, rec.Credentials.RefreshToken = secret.New("a9"), secret.New("r9")
		rec.Generation++
		rec.Lease = nil
		h.restore(rec)
		time.Sleep(10 * time.Second) // the second answer is there, and the store is out of reach again
		if got := len(h.provider.Requests()); got != 2 || !down.Load() {
			t.Fatalf("the token endpoint was asked %d times, want twice", got)
		}
		down.Store(false)
		time.Sleep(10 * time.Second)
		if got := h.token(h.key); !strings.HasPrefix(got, "access-2-") || h.record(h.key).Credentials.AccessToken.Reveal() != got {
			t.Errorf("got %q, want the second token", got)
		}
		if got := h.journal.Len(); got != 0 {
			t.Errorf("%d entries are in the journal, want none", got)
		}
	})
}

// A lateStore carries a save out some time after it was called, whether or not somebody
// waits for that.
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

// An impatientJournal does nothing for those who have gone, as that on disk.
type impatientJournal struct{ record.Journal }

// Remove implements [record.Journal].
func (j impatientJournal) Remove(ctx context.Context, id string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return j.Journal.Remove(ctx, id)
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

// A slowStore takes its time to save, and takes no notice of who has gone meanwhile.
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

// abandon ends a broker that stands for a crashed process.
func abandon(t *testing.T, b *broker.Broker) {
	t.Helper()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := b.Close(ctx); err != nil {
			t.Error(err)
		}
	})
}

func TestJournalWinsOverEveryReplica(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		all := replicas(t, 3)
		one, provider := all[0], all[0].provider
		down := one.failing()
		provider.Grant("r1")
		provider.Deliver = func(int) error { down.Store(true); return nil }
		one.mustImport("a1", "r1", issued(2*time.Hour))
		synctest.Wait()
		results := make(chan error, 2)
		for _, h := range all[1:] {
			go func() {
				for {
					if _, err := h.Source(h.key).Token(t.Context()); err == nil || !errors.Is(err, record.ErrStoreUnavailable) {
						results <- err
						return
					}
					time.Sleep(time.Second)
				}
			}()
		}
		time.Sleep(10 * time.Minute)
		down.Store(false)
		for range 2 {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
		if got := len(provider.Requests()); got != 1 {
			t.Errorf("got %d token requests, want 1", got)
		}
		if provider.Revoked("r1") {
			t.Error("the grant was revoked")
		}
	})
}

func TestNoRedeemStartsWithoutAWritableJournal(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.provider.Grant("r1")
		h.mustImport("a1", "r1", issued(0))
		h.journal.Fail(errors.New("no space left on device"))
		time.Sleep(2 * time.Hour)
		var failed *record.TokenError
		if _, err := h.Source(h.key).Token(t.Context()); !errors.As(err, &failed) || failed.Code != "journal_unavailable" || failed.RetryAt.IsZero() {
			t.Errorf("got %v, want a TokenError that names the journal", err)
		}
		if err := h.Ready(t.Context()); err == nil {
			t.Error("ready, though no refresh can begin")
		}
		if got := len(h.provider.Requests()); got != 0 {
			t.Errorf("got %d token requests, want none", got)
		}
		h.journal.Fail(nil)
		h.token(h.key)
	})
}

func TestRefreshTokenThatCameAloneIsNotLost(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		down := h.failing()
		h.mustImport("a1", "r1", issued(0))
		h.provider.Respond = respondOnce(brokertest.Response(200, map[string]any{"refresh_token": "r2"}), down)
		h.provider.Grant("r2")
		time.Sleep(2 * time.Hour)
		var failed *record.TokenError
		if _, err := h.Source(h.key).Token(t.Context()); !errors.As(err, &failed) || failed.Class != record.ClassTransient {
			t.Errorf("got %v, want a transient TokenError", err)
		}
		down.Store(false)
		time.Sleep(time.Minute)
		h.token(h.key)
		if got := fmt.Sprint(h.redeemed()); got != "[r1 r2]" {
			t.Errorf("redeemed %s, want [r1 r2]", got)
		}
	})
}

// An outage has left many answers, and the store is slow when it is back. All are saved
// before other replicas have watched the leases for long enough to take them over.
func TestManyAnswersAreSavedBeforeTheirLeasesRunOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		both := replicas(t, 2)
		one, two, provider := both[0], both[1], both[0].provider
		const connections = 60
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
			t.Fatalf("%d tokens were refreshed, want %d", got, connections)
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

// The save of a token was done and its answer lost. Before that is found out, an import
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
		rec := h.record(h.key)
		if !strings.HasPrefix(rec.Credentials.AccessToken.Reveal(), "access-1-") {
			t.Fatal("the token was not saved")
		}
		rec.Generation++
		rec.Credentials.AccessToken, rec.Credentials.Redeemed, rec.Credentials.IssuedAt = secret.New("a9"), false, time.Now()
		h.restore(rec) // as another replica's import does
		time.Sleep(time.Minute)
		if got := h.record(h.key); got.Credentials.AccessToken.Reveal() != "a9" || got.Generation != rec.Generation {
			t.Errorf("generation %d has %q, want what was imported", got.Generation, got.Credentials.AccessToken.Reveal())
		}
		if got := h.journal.Len(); got != 0 {
			t.Errorf("got %d entries in the journal, want none", got)
		}
	})
}
