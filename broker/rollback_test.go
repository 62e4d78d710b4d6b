package broker_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

func TestStoreThatWasSetBackIsNotRedeemedFrom(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.provider.Grant("r1")
		h.mustImport("a1", "r1", issued(0))
		backup := h.record(h.key)
		time.Sleep(2 * time.Hour)
		h.token(h.key)
		synctest.Wait()
		h.restore(backup)
		time.Sleep(2 * time.Hour)
		var failed *record.TokenError
		if _, err := h.Source(h.key).Token(t.Context()); !errors.As(err, &failed) || failed.Code != "stale_store" {
			t.Errorf("got %v, want a TokenError for a stale store", err)
		}
		if got := len(h.provider.Requests()); got != 1 {
			t.Errorf("got %d token requests, want 1: the refresh token in the store is spent", got)
		}
		if !strings.Contains(h.log.String(), "Was a backup restored?") {
			t.Error("it was not reported")
		}
	})
}

// An import after the store was set back counts on from what was seen, or what it
// stores would be taken for old again.
func TestImportMendsAStoreThatWasSetBack(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.provider.Grant("r1")
		h.mustImport("a1", "r1", issued(0))
		backup := h.record(h.key)
		for range 3 {
			time.Sleep(2 * time.Hour)
			h.token(h.key)
		}
		synctest.Wait()
		h.restore(backup)
		time.Sleep(2 * time.Hour)
		conn, err := h.Connection(t.Context(), h.key)
		if err != nil || conn.State != record.StateInvalid || conn.Health != record.HealthNeedsAuth {
			t.Errorf("got %+v, %v; want it shown as invalid", conn, err)
		}
		if conn, err = h.Validate(t.Context(), h.key); err != nil || conn.State != record.StateInvalid {
			t.Errorf("validate: got %+v, %v; want invalid", conn, err)
		}
		h.mustImport("b1", "s1", issued(0))
		time.Sleep(time.Minute)
		if got := h.token(h.key); got != "b1" {
			t.Errorf("after another import: got %q, want b1", got)
		}
	})
}
