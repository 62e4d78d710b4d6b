package broker_test

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// TestReimportOfTheOldTokenNeverBreaksTheConnection imports the same token twice. The second
// import comes before, during and after the first refresh, at a provider that rotates
// refresh tokens and at one that does not.
func TestReimportOfTheOldTokenNeverBreaksTheConnection(t *testing.T) {
	t.Parallel()
	for _, keep := range []bool{false, true} {
		for _, when := range []string{"before", "during", "after"} {
			t.Run(fmt.Sprintf("rotates=%v/%s", !keep, when), func(t *testing.T) {
				t.Parallel()
				virtually(t, func(t *testing.T, h *harness) {
					h.provider.KeepRefresh = keep
					h.provider.Grant("r1")
					lifetime := issued(0)
					if when != "before" {
						lifetime = issued(2 * time.Hour)
					}
					reimported := make(chan struct{})
					if when == "during" {
						h.provider.Deliver = func(n int) error {
							if n == 1 {
								<-reimported
							}
							return nil
						}
					}
					h.mustImport("a1", "r1", lifetime)
					synctest.Wait()
					if got := h.mustImport("a1", "r1", lifetime); got != record.ImportKept {
						t.Errorf("the second import: got %q, want kept", got)
					}
					close(reimported)
					synctest.Wait()

					for range 3 { // through several expiries
						time.Sleep(50 * time.Minute)
						h.token(h.key)
						synctest.Wait()
						time.Sleep(50 * time.Minute)
						h.token(h.key)
						synctest.Wait()
						h.mustImport("a1", "r1", lifetime)
						synctest.Wait()
					}
					if h.provider.Revoked("r1") {
						t.Error("the grant was revoked: a spent refresh token was sent")
					}
					sent := h.redeemed()
					if unique := slices.Compact(slices.Sorted(slices.Values(sent))); !keep && len(unique) != len(sent) {
						t.Errorf("a refresh token was redeemed twice: %v", sent)
					}
					if got := h.events.types(); got != "" {
						t.Errorf("got events %q, want none", got)
					}
				})
			})
		}
	}
}

func TestReimportDuringARefreshDoesNotReplaceTheAccessToken(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		release := h.holdAnswers("r1")
		h.mustImport("a1", "r1", issued(2*time.Hour))
		synctest.Wait()
		if got := h.mustImport("a2", "r1", issued(0)); got != record.ImportKept {
			t.Errorf("got %q, want kept while the lease is held", got)
		}
		close(release)
		synctest.Wait()
		if got := h.token(h.key); !strings.HasPrefix(got, "access-1-") {
			t.Errorf("got token %q, want the refreshed one", got)
		}
	})
}

func TestImportOfAnotherGrantDuringARefreshWins(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		release := h.holdAnswers("r1")
		h.mustImport("a1", "r1", issued(2*time.Hour))
		synctest.Wait()
		if got := h.mustImport("a2", "r2", issued(0)); got != record.ImportStored {
			t.Fatalf("got %q, want stored", got)
		}
		close(release)
		synctest.Wait()
		if got := h.token(h.key); got != "a2" {
			t.Errorf("got token %q, want a2: the answer belongs to the other grant", got)
		}
		h.wantRecord(h.key, recordWant{access: "a2", refresh: "r2", generation: 2})
		h.wantLogged(1, slog.LevelWarn, "")
	})
}

func TestReimportUnparksForOneAttempt(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.mustImport("a1", "r1", issued(2*time.Hour)) // a grant that the provider does not know
		synctest.Wait()
		if rec := h.record(h.key); !rec.IsParked() {
			t.Fatal("the connection is not parked")
		}
		if got := h.mustImport("a1", "r1", issued(2*time.Hour)); got != record.ImportKept {
			t.Errorf("got %q, want kept", got)
		}
		synctest.Wait()
		if got := len(h.provider.Requests()); got != 2 {
			t.Errorf("got %d token requests, want 2", got)
		}
		if rec := h.record(h.key); !rec.IsParked() {
			t.Error("the connection is not parked again")
		}
		if got := h.events.types(); got != "failed" {
			t.Errorf("got events %q, want one failed", got)
		}
	})
}

func TestReimportUnparksForGoodIfTheGrantWorksAgain(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.mustImport("a1", "r1", issued(2*time.Hour)) // a grant that the provider does not know yet
		synctest.Wait()
		h.provider.Grant("r1")
		h.mustImport("a1", "r1", issued(2*time.Hour))
		synctest.Wait()
		if got := h.token(h.key); !strings.HasPrefix(got, "access-") {
			t.Errorf("got token %q, want the refreshed one", got)
		}
		if got := h.events.types(); got != "failed recovered" {
			t.Errorf("got events %q, want failed recovered", got)
		}
	})
}
