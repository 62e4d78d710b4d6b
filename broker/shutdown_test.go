package broker_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

func TestShutdownFinishesARedeemUnderWay(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.provider.Grant("r1")
		h.provider.Deliver = func(int) error { time.Sleep(10 * time.Second); return nil }
		h.mustImport("a1", "r1", issued(2*time.Hour))
		synctest.Wait()
		begun := time.Now()
		if err := h.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if waited := time.Since(begun); waited != 10*time.Second {
			t.Errorf("closed after %v, want 10s", waited)
		}
		rec := h.record(h.key)
		if !strings.HasPrefix(rec.Credentials.RefreshToken.Reveal(), "refresh-1-") || rec.Cycle.Queued || rec.Lease != nil {
			t.Error("the answer was not saved")
		}
		if _, err := h.Source(record.Key{Application: "app", Consumer: "other", Connector: acme}).Token(t.Context()); !errors.Is(err, broker.ErrShuttingDown) {
			t.Errorf("got %v, want ErrShuttingDown", err)
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
