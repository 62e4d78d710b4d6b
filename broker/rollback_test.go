package broker_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

func TestRefreshTokenOfAStoreThatWasRolledBackIsNotSent(t *testing.T) {
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
		_, err := h.Source(h.key).Token(t.Context())
		wantTokenErrorCode(t, err, record.ClassConfiguration, "stale_store")
		if got := len(h.provider.Requests()); got != 1 {
			t.Errorf("got %d token requests, want 1: the refresh token in the store is spent", got)
		}
		if got := h.logLines("level=ERROR", "connection="+h.key.String(), "stored_generation=1"); len(got) == 0 {
			t.Errorf("the log does not report the rollback:\n%s", h.log)
		}
	})
}

// An import after a rollback counts on from the generation that this process has seen:
// otherwise the broker would take the imported credentials for old ones too.
func TestImportMendsAStoreThatWasRolledBack(t *testing.T) {
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
		h.wantView(h.key, record.StateInvalid, record.HealthNeedsAuth)
		if got := h.mustValidate(h.key); got != record.StateInvalid {
			t.Errorf("validate: got %s, want invalid", got)
		}
		h.mustImport("b1", "s1", issued(0))
		time.Sleep(time.Minute)
		if got := h.token(h.key); got != "b1" {
			t.Errorf("after another import: got %q, want b1", got)
		}
	})
}
