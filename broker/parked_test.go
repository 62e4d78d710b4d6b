package broker_test

import (
	"net/http"
	"net/url"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

func TestDeadConnectionCostsTheTokenEndpointOneCall(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.mustImport("a1", "r1", issued(2*time.Hour))
		for range 47 {
			_, err := h.Source(h.key).Token(t.Context())
			failed := wantParked(t, err)
			if failed.Code != "invalid_grant" {
				t.Fatalf("got code %q, want invalid_grant", failed.Code)
			}
			if !failed.FirstRefresh {
				t.Fatal("it is not the first refresh since the import")
			}
			time.Sleep(time.Hour)
		}
		if got := len(h.provider.Requests()); got != 1 {
			t.Errorf("got %d token requests, want 1", got)
		}
		if got := h.events.types(); got != "failed" {
			t.Errorf("got events %q, want failed", got)
		}
		h.wantView(h.key, record.StateInvalid, record.HealthNeedsAuth)
	})
}

func TestSweepClearsTheCredentialsOfADeadConnectionAfterTheRetention(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.mustImport("a1", "r1", issued(2*time.Hour))
		time.Sleep(47 * time.Hour)
		if rec := h.record(h.key); rec.Credentials == nil {
			t.Error("the credentials were cleared before the end of the retention")
		}
		time.Sleep(2 * time.Hour)
		if rec := h.record(h.key); rec.Credentials != nil {
			t.Error("the credentials were not cleared")
		}
		_, err := h.Source(h.key).Token(t.Context())
		if failed := wantParked(t, err); failed.Code != "no_credentials" {
			t.Errorf("got code %q, want no_credentials", failed.Code)
		}
		h.wantView(h.key, record.StateAdded, record.HealthNeedsAuth)
	})
}

func TestDeadConnectionSparesTheStore(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		var loads atomic.Int32
		h.store.FailAfter = func(op string, _ record.Key) error {
			if op == brokertest.OpLoad {
				loads.Add(1)
			}
			return nil
		}
		h.mustImport("a1", "r1", issued(2*time.Hour))
		synctest.Wait()
		before := loads.Load()
		for range 1000 {
			if _, err := h.Source(h.key).Token(t.Context()); err == nil {
				t.Fatal("got a token")
			}
		}
		if got := loads.Load() - before; got > 1 {
			t.Errorf("1000 calls for a dead connection cost %d loads, want 1 at most", got)
		}
	})
}

// The retention counts for the refused refresh token, not for one that is imported later.
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

// refuse answers every token request with invalid_grant.
func refuse(int, url.Values) (*http.Response, error) {
	return brokertest.Response(http.StatusBadRequest, map[string]any{"error": "invalid_grant"}), nil
}
