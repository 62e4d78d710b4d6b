package broker_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// Of a lease whose saving took long too little is left: an answer could come when
// somebody else has taken over.
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
		if rec := h.record(h.key); rec.Lease != nil || rec.Cycle.Ambiguous != 0 {
			t.Errorf("got lease %v, ambiguous %d; want it given back, with nothing in doubt", rec.Lease, rec.Cycle.Ambiguous)
		}
		if got := h.token(h.key); !strings.HasPrefix(got, "access-1-") {
			t.Errorf("the next call got %q", got)
		}
	})
}

// Neither the store nor the journal takes the new token: it is in memory alone. It is
// served, and saved as soon as that can be; readiness and the log say so meanwhile.
func TestTokenThatNothingTakesIsServedAndSavedLater(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		down := h.failing()
		h.provider.Grant("r1")
		h.provider.Deliver = func(int) error {
			down.Store(true)
			h.journal.Fail(errors.New("no space left on device"))
			return nil
		}
		h.mustImport("a1", "r1", issued(2*time.Hour))
		synctest.Wait()
		for range 10 {
			if got := h.token(h.key); !strings.HasPrefix(got, "access-1-") {
				t.Fatalf("got %q, want the new token", got)
			}
			if h.Ready(t.Context()) == nil {
				t.Error("ready, though a token is in memory alone")
			}
			time.Sleep(5 * time.Minute)
		}
		if log := h.log.String(); !strings.Contains(log, "neither the store nor the journal") {
			t.Error("the log does not say that the token is in memory only")
		}
		down.Store(false)
		time.Sleep(10 * time.Second)
		if rec := h.record(h.key); !strings.HasPrefix(rec.Credentials.RefreshToken.Reveal(), "refresh-1-") {
			t.Error("the token was not saved when it could be")
		}
		h.journal.Fail(nil)
		if err := h.Ready(t.Context()); err != nil {
			t.Errorf("not ready: %v", err)
		}
	})
}

// A shutdown waits for what is in memory alone, for as long as it is allowed to.
func TestShutdownWaitsForATokenThatNothingTakes(t *testing.T) {
	t.Parallel()
	for _, comesBack := range []bool{true, false} {
		t.Run(fmt.Sprintf("comes back %t", comesBack), func(t *testing.T) {
			t.Parallel()
			virtually(t, func(t *testing.T, h *harness) {
				down := h.failing()
				h.provider.Grant("r1")
				h.provider.Deliver = func(int) error {
					down.Store(true)
					h.journal.Fail(errors.New("no space left on device"))
					return nil
				}
				h.mustImport("a1", "r1", issued(2*time.Hour))
				synctest.Wait()
				if comesBack {
					time.AfterFunc(12*time.Second, func() { down.Store(false) })
				}
				ctx, cancel := context.WithTimeout(t.Context(), 25*time.Second)
				defer cancel()
				begun := time.Now()
				err := h.Close(ctx)
				took := time.Since(begun)
				if comesBack {
					if rec := h.record(h.key); err != nil || took < 12*time.Second || !strings.HasPrefix(rec.Credentials.RefreshToken.Reveal(), "refresh-1-") {
						t.Errorf("closed after %v with %v, want the token saved", took, err)
					}
					return
				}
				if !errors.Is(err, context.DeadlineExceeded) || took != 25*time.Second {
					t.Errorf("closed after %v with %v, want all of 25s and an error", took, err)
				}
				if log := h.log.String(); !strings.Contains(log, "neither the store nor the journal took a refreshed token before the shutdown") {
					t.Error("the log does not say which connection may have to be authorised again")
				}
				down.Store(false) // or else the broker would never end
			})
		})
	}
}

// How long before its expiry a token is refreshed depends on how long it lives.
func TestRefreshAheadGoesByTheLifetime(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		lifetime time.Duration // 0: not said, and taken for an hour
		margin   time.Duration
	}{
		"a third of a very short life": {30 * time.Second, 10 * time.Second},
		"a minute of a short one":      {4 * time.Minute, time.Minute},
		"a fifth":                      {20 * time.Minute, 4 * time.Minute},
		"five minutes of a long one":   {10 * time.Hour, 5 * time.Minute},
		"unknown":                      {0, 5 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			virtually(t, func(t *testing.T, h *harness) {
				h.provider.Lifetime = test.lifetime
				h.provider.Grant("r1")
				h.mustImport("a0", "r1", issued(2*time.Hour))
				synctest.Wait() // the token is now one of the provider's, from this moment on
				begun, lifetime := time.Now(), test.lifetime
				if lifetime == 0 {
					lifetime = time.Hour
				}
				for len(h.provider.Requests()) == 1 && time.Since(begun) < lifetime {
					h.token(h.key)
					synctest.Wait()
					time.Sleep(100 * time.Millisecond)
				}
				ahead := lifetime - time.Since(begun)
				if least := test.margin - test.margin/10 - 200*time.Millisecond; ahead < least || ahead > test.margin {
					t.Errorf("refreshed %v ahead, want %v less up to a tenth", ahead, test.margin)
				}
			})
		})
	}
}

// Retention is about the refresh token that was refused, not about one that came later.
func TestRetentionSparesWhatWasImportedLater(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.mustImport("a1", "r1", issued(2*time.Hour))
		time.Sleep(47 * time.Hour)
		h.provider.Grant("r2")
		h.mustImport("a2", "r2", issued(0))
		time.Sleep(48 * time.Hour)
		if rec := h.record(h.key); rec.Credentials == nil {
			t.Fatal("the credentials were cleared")
		}
		h.token(h.key)
	})
}
