package broker_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

func TestShutdownFinishesARefreshInProgress(t *testing.T) {
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
		if rec := h.wantRecord(h.key, recordWant{refresh: "refresh-1-"}); rec.Cycle.Queued {
			t.Error("the refresh is still queued")
		}
		if _, err := h.Source(h.of("other")).Token(t.Context()); !errors.Is(err, record.ErrShuttingDown) {
			t.Errorf("got %v, want ErrShuttingDown", err)
		}
	})
}

func TestShutdownWaitsForATokenThatNothingTakes(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		down := h.importUnsavable()
		time.AfterFunc(12*time.Second, func() { down.Store(false) })
		ctx, cancel := context.WithTimeout(t.Context(), 25*time.Second)
		defer cancel()
		begun := time.Now()
		if err := h.Close(ctx); err != nil {
			t.Errorf("got %v, want the token saved", err)
		}
		if took := time.Since(begun); took < 12*time.Second {
			t.Errorf("closed after %v, want it to wait 12s for the store", took)
		}
		h.wantRecord(h.key, recordWant{refresh: "refresh-1-"})
	})
}

func TestShutdownWaitsNoLongerThanItMayForATokenThatNothingTakes(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		down := h.importUnsavable()
		before := len(h.logLines("level=ERROR"))
		ctx, cancel := context.WithTimeout(t.Context(), 25*time.Second)
		defer cancel()
		begun := time.Now()
		if err := h.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want DeadlineExceeded", err)
		}
		if took := time.Since(begun); took != 25*time.Second {
			t.Errorf("closed after %v, want 25s", took)
		}
		h.wantLogged(1, slog.LevelError, "before the shutdown")
		if got := len(h.logLines("level=ERROR")) - before; got != 1 {
			t.Errorf("the shutdown logged %d errors, want the one that names the connection; the log:\n%s", got, h.log)
		}
		down.Store(false) // otherwise the broker never ends
	})
}
