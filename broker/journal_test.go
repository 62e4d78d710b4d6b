package broker_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker"
	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

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
		h.start() // the crashed one goes on failing, to no effect
		if _, err := h.Source(h.key).Token(t.Context()); !errors.Is(err, record.ErrStoreUnavailable) {
			t.Errorf("got %v, want ErrStoreUnavailable", err)
		}
		abandon(t, crashed)
		down.Store(false)
		if got := h.token(h.key); !strings.HasPrefix(got, "access-1-") {
			t.Errorf("got %q, want the token of the journal", got)
		}
		h.mustImport("a9", "r9", issued(0)) // the answer in the journal is saved first
		if rec := h.record(h.key); len(rec.Replaced) != 1 {
			t.Error("the journal's answer was not saved before the import")
		}
		if got := h.journal.Len(); got != 0 {
			t.Errorf("got %d entries in the journal afterwards, want none", got)
		}
	})
}

// abandon closes a broker that stands for a crashed process when the test ends.
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

func TestNoRefreshStartsWithoutAWritableJournal(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.provider.Grant("r1")
		h.mustImport("a1", "r1", issued(0))
		h.journal.Fail(errors.New("no space left on device"))
		time.Sleep(2 * time.Hour)
		_, err := h.Source(h.key).Token(t.Context())
		failed := wantTokenErrorCode(t, err, record.ClassTransient, "journal_unavailable")
		if failed.RetryAt.IsZero() {
			t.Error("got no time for the next attempt")
		}
		if err := h.Ready(t.Context()); err == nil {
			t.Error("ready, though no refresh can start")
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
		_, err := h.Source(h.key).Token(t.Context())
		wantTokenError(t, err, record.ClassTransient)
		down.Store(false)
		time.Sleep(time.Minute)
		h.token(h.key)
		if got := fmt.Sprint(h.redeemed()); got != "[r1 r2]" {
			t.Errorf("redeemed %s, want [r1 r2]", got)
		}
	})
}

func TestJournalThatWasReplayedTwiceChangesNothing(t *testing.T) {
	t.Parallel()
	for _, keep := range []bool{false, true} {
		t.Run(fmt.Sprintf("rotates=%v", !keep), func(t *testing.T) {
			t.Parallel()
			virtually(t, func(t *testing.T, h *harness) {
				down := h.failing()
				h.provider.KeepRefresh = keep
				h.provider.Grant("r1")
				h.provider.Deliver = func(n int) error { down.Store(n == 1); return nil }
				h.mustImport("a1", "r1", issued(2*time.Hour))
				synctest.Wait()
				var entries []record.JournalEntry
				for entry, err := range h.journal.Entries(t.Context()) {
					if err != nil {
						t.Fatal(err)
					}
					entries = append(entries, entry)
				}
				if len(entries) != 1 {
					t.Fatalf("got %d entries in the journal, want 1", len(entries))
				}
				down.Store(false)
				time.Sleep(2 * time.Hour)
				h.token(h.key)
				synctest.Wait()
				before := h.record(h.key)
				for _, entry := range entries { // as if their removal had failed
					if err := h.journal.Put(t.Context(), entry.ID, entry.Data); err != nil {
						t.Fatal(err)
					}
				}
				abandon(t, h.Broker)
				h.start()
				h.Start()
				time.Sleep(time.Minute)
				h.wantRecord(h.key, recordWant{access: before.Credentials.AccessToken.Reveal(), generation: before.Generation})
				if got := h.journal.Len(); got != 0 {
					t.Errorf("got %d entries in the journal, want none", got)
				}
			})
		})
	}
}

// respondOnce answers the first token request with resp, and sets down.
func respondOnce(resp *http.Response, down *atomic.Bool) func(int, url.Values) (*http.Response, error) {
	return func(n int, _ url.Values) (*http.Response, error) {
		if n > 1 {
			return nil, nil
		}
		down.Store(true)
		return resp, nil
	}
}
