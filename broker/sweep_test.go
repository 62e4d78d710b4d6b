package broker_test

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// respondOnce answers the first token request with resp and turns on down.
func respondOnce(resp *http.Response, down *atomic.Bool) func(int, url.Values) (*http.Response, error) {
	return func(n int, _ url.Values) (*http.Response, error) {
		if n > 1 {
			return nil, nil
		}
		down.Store(true)
		return resp, nil
	}
}

func TestDeletedConnectionIsGoneAndStaysGone(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		if err := h.Delete(t.Context(), h.key); !errors.Is(err, record.ErrConnectionNotFound) {
			t.Errorf("before there was one: got %v", err)
		}
		h.mustImport("a1-"+brokertest.AccessCanary, "r1-"+brokertest.RefreshCanary, issued(0))
		if err := h.Delete(t.Context(), h.key); err != nil {
			t.Fatal(err)
		}
		if err := h.Delete(t.Context(), h.key); !errors.Is(err, record.ErrConnectionNotFound) {
			t.Errorf("again: got %v", err)
		}
		if _, err := h.Connection(t.Context(), h.key); !errors.Is(err, record.ErrConnectionNotFound) {
			t.Errorf("got %v, want ErrConnectionNotFound", err)
		}
		if _, err := h.Source(h.key).Token(t.Context()); !errors.Is(err, record.ErrConnectionNotFound) {
			t.Errorf("got %v, want ErrConnectionNotFound", err)
		}
		synctest.Wait()
		brokertest.NoCanary(t, "the store, earlier revisions included,", h.store.Contents())

		h.mustImport("a2", "r2", issued(0))
		if got := h.token(h.key); got != "a2" {
			t.Errorf("after another import: got %q, want a2", got)
		}
		if rec := h.record(h.key); rec.Generation != 3 {
			t.Errorf("got generation %d, want 3: it goes on counting", rec.Generation)
		}
	})
}

func TestAnswerForADeletedConnectionIsDropped(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		release := h.holdAnswers("r1")
		h.mustImport("a1", "r1", issued(2*time.Hour))
		synctest.Wait()
		if err := h.Delete(t.Context(), h.key); err != nil {
			t.Fatal(err)
		}
		close(release)
		synctest.Wait()
		if rec := h.record(h.key); !rec.IsTombstone() || rec.Credentials != nil {
			t.Error("the connection is back")
		}
	})
}

func TestSweepRemovesOldTombstones(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.mustImport("a1", "r1", issued(0))
		if err := h.Delete(t.Context(), h.key); err != nil {
			t.Fatal(err)
		}
		time.Sleep(23 * time.Hour)
		if rec := h.record(h.key); !rec.IsTombstone() {
			t.Error("no tombstone")
		}
		time.Sleep(3 * time.Hour)
		if _, _, err := h.store.Load(t.Context(), h.key); !errors.Is(err, record.ErrNotFound) {
			t.Errorf("got %v, want ErrNotFound", err)
		}
		h.mustImport("a2", "r2", issued(0))
		if got := h.token(h.key); got != "a2" {
			t.Errorf("after another import: got %q, want a2", got)
		}
	})
}

// A connection is imported again at the very moment at which its tombstone is removed:
// it must not go with that.
func TestImportWhileItsTombstoneIsRemovedIsNotLost(t *testing.T) {
	t.Parallel()
	for name, removed := range map[string]bool{"it is removed": true, "who removes it dies": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			virtually(t, func(t *testing.T, h *harness) {
				imported := make(chan error, 1)
				var deletes atomic.Int32
				h.store.Fail = func(op string, _ record.Key) error {
					if op != brokertest.OpDelete || deletes.Add(1) > 1 {
						return nil
					}
					go func() {
						_, _, err := h.importBody(h.key, `{"credentials": {"access_token": "a2", "refresh_token": "r2"}}`)
						imported <- err
					}()
					time.Sleep(3 * time.Second) // the request is on its way
					if !removed {
						return record.ErrStoreUnavailable
					}
					return nil
				}
				h.mustImport("a1", "r1", issued(0))
				if err := h.Delete(t.Context(), h.key); err != nil {
					t.Fatal(err)
				}
				time.Sleep(26 * time.Hour)
				if deletes.Load() != 1 {
					t.Fatalf("%d records were deleted, want one", deletes.Load())
				}
				if err := <-imported; err != nil {
					t.Errorf("the import: %v", err)
				}
				if rec := h.record(h.key); rec.IsTombstone() || rec.Credentials.AccessToken.Reveal() != "a2" || rec.Lease != nil {
					t.Errorf("got %+v, want what was imported", rec)
				}
			})
		})
	}
}

func TestSweepFinishesARefreshThatACrashLost(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.provider.Grant("r1")
		rec := &record.Record{Key: h.key, Enabled: true, Generation: 1, Cycle: record.Cycle{Queued: true}, Credentials: &record.Credentials{
			AccessToken: secret.New("a1"), RefreshToken: secret.New("r1"), FromImport: true,
		}}
		if _, err := h.store.Save(t.Context(), rec, 0); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Connection(t.Context(), h.at(long)); !errors.Is(err, record.ErrConnectionNotFound) {
			t.Fatal(err) // the first use of the store, from which on it is swept
		}
		time.Sleep(15 * time.Minute)
		if rec := h.record(h.key); rec.Cycle.Queued || !strings.HasPrefix(rec.Credentials.AccessToken.Reveal(), "access-1-") {
			t.Error("the refresh was not made up for")
		}
	})
}

func TestKeepAliveRedeemsARefreshTokenThatNobodyUses(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.configureConnector(acme, func(c *record.Connector) { c.KeepAlive = 7 * 24 * time.Hour })
		h.provider.Grant("r1")
		h.mustImport("a1", "r1", issued(0))
		for range 30 * 24 {
			time.Sleep(time.Hour)
		}
		// One every 5.25 days, which is before the week is over.
		if got := len(h.provider.Requests()); got != 5 {
			t.Errorf("got %d token requests in 30 days, want 5", got)
		}
	})
}

func TestOneReplicaSweepsAtATime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		all := replicas(t, 3)
		var listing, most atomic.Int32
		over := make(chan struct{})
		all[0].store.Fail = func(op string, _ record.Key) error {
			if op == brokertest.OpList {
				most.Store(max(most.Load(), listing.Add(1)))
				select {
				case <-time.After(4 * time.Minute):
				case <-over:
				}
				listing.Add(-1)
			}
			return nil
		}
		for _, h := range all {
			h.mustImport("a1", "r1", issued(0))
		}
		t.Cleanup(func() { close(over) })
		time.Sleep(2 * time.Hour)
		if got := most.Load(); got != 1 {
			t.Errorf("got %d replicas that sweep at a time, want 1", got)
		}
	})
}

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

func TestIdleConnectionsLeaveMemory(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		var loads atomic.Int32
		h.store.FailAfter = func(op string, key record.Key) error {
			if op == brokertest.OpLoad && key == h.key {
				loads.Add(1)
			}
			return nil
		}
		h.mustImport("a1", "r1", `"issued_at":"2000-01-01T00:00:00Z","expires_at":"2099-01-01T00:00:00Z"`)
		time.Sleep(3 * time.Hour)
		before := loads.Load()
		h.token(h.key)
		if loads.Load() == before {
			t.Error("the record was not read again")
		}
	})
}

func TestRejectedTokenIsRenewedOnce(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.provider.Lifetime = 1000 * time.Hour
		h.provider.Grant("r1")
		h.mustImport("a1", "r1", `"issued_at":"2000-01-01T00:00:00Z","expires_at":"2000-02-01T00:00:00Z"`)
		url := "https://api.acme.test/"
		auth, err := h.Authorize(request(t, url), h.key)
		if err != nil {
			t.Fatal(err)
		}
		if !auth.Renew(t.Context()) {
			t.Error("not renewed")
		}
		if !auth.Renew(t.Context()) { // a second request with the old token
			t.Error("the newer one was not seen")
		}
		if got := len(h.provider.Requests()); got != 1 {
			t.Errorf("got %d token requests, want 1", got)
		}

		// Downstream goes on answering 401, whatever the token.
		for range 200 {
			auth, err := h.Authorize(request(t, url), h.key)
			if err != nil {
				t.Fatal(err)
			}
			auth.Renew(t.Context())
			time.Sleep(time.Minute)
		}
		if got := len(h.provider.Requests()); got > 15 {
			t.Errorf("got %d token requests in three hours of 401s", got)
		}

		// It takes one at last: then the cooldown starts anew.
		time.Sleep(time.Hour)
		auth, err = h.Authorize(request(t, url), h.key)
		if err != nil {
			t.Fatal(err)
		}
		before := len(h.provider.Requests())
		if !auth.Renew(t.Context()) {
			t.Error("not renewed after the cooldown")
		}
		auth, err = h.Authorize(request(t, url), h.key)
		if err != nil {
			t.Fatal(err)
		}
		auth.HandleResponse(brokertest.Response(200, "ok"))
		time.Sleep(time.Hour)
		auth, _ = h.Authorize(request(t, url), h.key)
		auth.Renew(t.Context())
		time.Sleep(11 * time.Second)
		auth, _ = h.Authorize(request(t, url), h.key)
		auth.Renew(t.Context())
		if got := len(h.provider.Requests()) - before; got != 3 {
			t.Errorf("got %d more token requests, want 3", got)
		}
	})
}

func TestAmbiguousOutcomeFollowsTheRotation(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		rotation connector.Rotation
		valid    bool // the access token, for ten minutes more
		min, max time.Duration
	}{
		"always, valid":   {connector.Rotation{Kind: connector.RotationAlways}, true, 10 * time.Minute, 11 * time.Minute},
		"always, expired": {connector.Rotation{Kind: connector.RotationAlways}, false, 500 * time.Millisecond, time.Second},
		"never":           {connector.Rotation{Kind: connector.RotationNever}, true, 500 * time.Millisecond, time.Second},
		"window":          {connector.Rotation{Kind: connector.RotationWindow, Window: time.Minute}, true, 0, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			virtually(t, func(t *testing.T, h *harness) {
				h.configureConnector(acme, func(c *record.Connector) { c.Rotation = test.rotation })
				h.provider.Grant("r1")
				var second atomic.Int64
				h.provider.Respond = func(n int, _ url.Values) (*http.Response, error) {
					if n == 1 {
						return brokertest.Response(500, ""), nil
					}
					second.Store(time.Now().UnixNano())
					return nil, nil
				}
				lifetime := `"expires_at":"` + time.Now().Add(10*time.Minute).Format(time.RFC3339) + `"` // no issued_at: refreshed at once
				if !test.valid {
					lifetime = issued(2 * time.Hour)
				}
				begun := time.Now()
				h.mustImport("a1", "r1", lifetime)
				synctest.Wait()
				if got := h.events.types(); got != "pending" {
					t.Errorf("got events %q, want pending: an ambiguous outcome is never silent", got)
				}
				if rec := h.record(h.key); rec.Cycle.Ambiguous != 1 || rec.Cycle.Class != record.ClassAmbiguous {
					t.Errorf("got %d ambiguous attempts, class %s", rec.Cycle.Ambiguous, rec.Cycle.Class)
				}
				time.Sleep(20 * time.Minute)
				if waited := time.Unix(0, second.Load()).Sub(begun); waited < test.min || waited > test.max {
					t.Errorf("sent again after %v, want %v to %v", waited, test.min, test.max)
				}
				if got := h.events.types(); got != "pending recovered" {
					t.Errorf("got events %q, want pending recovered", got)
				}
			})
		})
	}
}
