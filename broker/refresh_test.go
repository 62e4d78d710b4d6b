package broker_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestStormOnAnExpiredTokenRedeemsOnce(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		release := h.holdAnswers("r1")
		h.mustImport("a1", "r1", issued(0))
		time.Sleep(2 * time.Hour)

		first, cancel := context.WithCancel(t.Context())
		const callers = 10_000
		var wg sync.WaitGroup
		tokens := make([]string, callers)
		for i := range callers {
			ctx := t.Context()
			if i == 0 {
				ctx = first
			}
			wg.Go(func() {
				tok, err := h.Source(h.key).Token(ctx)
				if err == nil {
					tokens[i] = tok.AccessToken.Reveal()
				} else if i != 0 || !errors.Is(err, context.Canceled) {
					t.Errorf("caller %d: %v", i, err)
				}
			})
			if i == 0 {
				synctest.Wait() // this caller starts the refresh
			}
		}
		synctest.Wait()
		cancel() // the caller that started it goes away
		synctest.Wait()
		close(release)
		wg.Wait()
		if got := len(h.provider.Requests()); got != 1 {
			t.Errorf("got %d token requests, want 1", got)
		}
		for i, tok := range tokens[1:] {
			if !strings.HasPrefix(tok, "access-1-") {
				t.Fatalf("caller %d got %q, want the refreshed token", i+1, tok)
			}
		}
	})
}

func TestStormAcrossReplicasRedeemsOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		all := replicas(t, 3)
		provider := all[0].provider
		provider.Grant("r1")
		provider.Deliver = func(int) error { time.Sleep(10 * time.Second); return nil }
		all[0].mustImport("a1", "r1", issued(0))
		time.Sleep(2 * time.Hour)
		const callers = 10_000
		var wg sync.WaitGroup
		for i := range callers {
			h := all[i%len(all)]
			wg.Go(func() {
				if tok, err := h.Source(h.key).Token(t.Context()); err != nil || tok.Generation != 2 {
					t.Errorf("caller %d: got generation %d, %v; want 2", i, tok.Generation, err)
				}
			})
		}
		wg.Wait()
		if got := len(provider.Requests()); got != 1 {
			t.Errorf("got %d token requests, want 1", got)
		}
	})
}

func TestTwoReplicasRedeemOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		both := replicas(t, 2)
		one, two, provider := both[0], both[1], both[0].provider
		provider.Grant("r1")
		provider.Deliver = func(int) error { time.Sleep(10 * time.Second); return nil }
		one.mustImport("a1", "r1", issued(2*time.Hour))
		synctest.Wait()
		if got := two.token(two.key); !strings.HasPrefix(got, "access-1-") {
			t.Errorf("the second replica got %q, want the refreshed token", got)
		}
		if got := len(provider.Requests()); got != 1 {
			t.Errorf("got %d token requests, want 1", got)
		}
	})
}
