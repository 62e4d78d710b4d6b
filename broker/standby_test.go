package broker_test

import (
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker"
	"github.com/tokenbroker/caddy-token-broker/broker/apideck"
	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// importStandby imports a JSON body with the header X-Token-Broker-Standby.
func (h *harness) importStandby(key record.Key, standby bool, body string) (*record.Connection, record.ImportOutcome) {
	h.t.Helper()
	imp, err := apideck.ParseImport([]byte(body))
	if err != nil {
		h.t.Fatal(err)
	}
	imp.Standby = &standby
	done, err := h.Import(h.t.Context(), key, imp)
	if err != nil {
		h.t.Fatal(err)
	}
	if done.Connection.Standby != standby {
		h.t.Errorf("the import shows standby %t, want %t", done.Connection.Standby, standby)
	}
	return done.Connection, done.Outcome
}

// inStandby imports tokens in standby, issued so long ago, into the connection to acme.
func (h *harness) inStandby(ago time.Duration) {
	h.t.Helper()
	h.provider.Grant("r1")
	h.importStandby(h.key, true, `{"credentials":{"access_token":"a1","refresh_token":"r1",`+issued(ago)+`}}`)
}

// wantStandbyError checks that calls get no token because of standby.
func (h *harness) wantStandbyError() {
	h.t.Helper()
	if tok, err := h.Source(h.key).Token(h.t.Context()); !errors.Is(err, record.ErrStandby) {
		h.t.Errorf("got %v, %v, want ErrStandby", tok, err)
	}
}

func TestStandbyServesValidTokensAndRefreshesNothing(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.inStandby(0)
		h.wantView(h.key, record.StateCallable, record.HealthOK)
		for range 59 { // also when a refresh would be due
			if got := h.token(h.key); got != "a1" {
				t.Fatalf("got %q, want a1", got)
			}
			time.Sleep(time.Minute)
		}
		time.Sleep(time.Minute)
		h.wantStandbyError()
		if _, err := h.Authorize(request(t, "https://api.acme.test/"), h.key); !errors.Is(err, record.ErrStandby) {
			t.Errorf("got %v, want ErrStandby", err)
		}
		if view := h.wantView(h.key, record.StateAuthorized, record.HealthPendingRefresh); !view.Standby {
			t.Error("the connection does not show that it is in standby")
		}
		time.Sleep(48 * time.Hour) // sweeps go by
		h.wantRequests("in standby", 0)
		if got := h.events.types(); got != "" {
			t.Errorf("got events %q, want none", got)
		}
	})
}

// The other system has refreshed, and its tokens are imported again.
func TestImportsInStandbyFollowTheOtherSystem(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.inStandby(2 * time.Hour)
		h.wantStandbyError()
		at := func(in time.Duration) string {
			return `"expires_at":"` + time.Now().Add(in).UTC().Format(time.RFC3339) + `"`
		}
		for _, step := range []struct {
			credentials, access string
			outcome             record.ImportOutcome
		}{
			{`"access_token":"a2","refresh_token":"r2",` + issued(0), "a2", record.ImportStored},
			{`"access_token":"a1","refresh_token":"r1",` + issued(2*time.Hour), "a2", record.ImportKept}, // an old dump
			// The provider does not rotate, and the other system does not know when it obtained a token.
			{`"access_token":"a3","refresh_token":"r2",` + at(2*time.Hour), "a3", record.ImportStored},
			{`"access_token":"a2","refresh_token":"r2",` + at(time.Hour), "a3", record.ImportKept},
			{`"access_token":"a3","refresh_token":"r2",` + at(2*time.Hour), "a3", record.ImportKept},
		} {
			if outcome := h.mustImportBody(h.key, `{"credentials":{`+step.credentials+`}}`); outcome != step.outcome {
				t.Errorf("%s: got %s, want %s", step.credentials, outcome, step.outcome)
			}
			if got := h.token(h.key); got != step.access {
				t.Errorf("%s: got the token %q, want %q", step.credentials, got, step.access)
			}
		}
		if !h.record(h.key).Standby || h.record(h.key).Cycle.Queued {
			t.Error("an import without the header changed standby, or queued a refresh")
		}
		h.wantRequests("in standby", 0)
	})
}

func TestImportEndsStandby(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.inStandby(2 * time.Hour)
		h.importStandby(h.key, false, `{"credentials":{"access_token":"a1","refresh_token":"r1",`+issued(2*time.Hour)+`}}`)
		synctest.Wait()
		h.wantRequests("activated", 1)
		h.wantRecord(h.key, recordWant{access: "access-1-"})
	})
}

// The caller gets what downstream has answered.
func TestRejectedTokenInStandbyIsNotRenewed(t *testing.T) {
	t.Parallel()
	for _, id := range []connector.ID{acme, long} {
		virtually(t, func(t *testing.T, h *harness) {
			key := h.at(id)
			refresh := map[connector.ID]string{acme: `"refresh_token":"r1",`}[id] // without one a 401 parks an active connection
			h.importStandby(key, true, `{"credentials":{"access_token":"a1",`+refresh+issued(0)+`}}`)
			auth, err := h.Authorize(request(t, "https://api.acme.test/"), key)
			if err != nil {
				t.Fatal(err)
			}
			auth.HandleResponse(brokertest.Response(http.StatusUnauthorized, ""))
			if auth.Renew(t.Context()) {
				t.Error("the token was renewed")
			}
			if err := auth.Dead(t.Context()); err != nil {
				t.Errorf("Dead: got %v, want nil", err)
			}
			auth.RenewInBackground()
			synctest.Wait()
			h.wantRequests("after a 401", 0)
			h.wantView(key, record.StateCallable, record.HealthOK)
		})
	}
}

func TestValidateTriesNothingInStandby(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.inStandby(0)
		for _, state := range []record.State{record.StateCallable, record.StateAuthorized} {
			if view, err := h.Validate(t.Context(), h.key); err != nil || view.State != state || !view.Standby {
				t.Errorf("got %+v, %v, want %s in standby", view, err, state)
			}
			time.Sleep(2 * time.Hour)
		}
		key := h.at(cc)
		h.importStandby(key, true, `{}`)
		if _, err := h.ObtainToken(t.Context(), key); !errors.Is(err, record.ErrStandby) {
			t.Errorf("ObtainToken: got %v, want ErrStandby", err)
		}
		h.wantRequests("in standby", 0)
	})
}

func TestStandbyKeepsNoRefreshTokenAlive(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.configureConnector(acme, func(c *record.Connector) { c.KeepAlive = 7 * 24 * time.Hour })
		h.inStandby(0)
		for range 30 * 24 {
			time.Sleep(time.Hour)
		}
		h.wantRequests("in 30 days", 0)
	})
}

// A parked connection loses nothing while it is in standby, and has all of its retention left
// when it is activated.
func TestRetentionDoesNotRunInStandby(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.mustImport("a1", "dead", issued(2*time.Hour))
		synctest.Wait()
		if !h.record(h.key).IsParked() {
			t.Fatal("the connection is not parked")
		}
		h.mustSwitch(h.EnterStandby, broker.Selection{}, "1 changed")
		if view := h.wantView(h.key, record.StateInvalid, record.HealthNeedsAuth); !view.CredentialsExpireAt.IsZero() {
			t.Errorf("the credentials expire at %v, want never", view.CredentialsExpireAt)
		}
		h.wantStandbyError()
		time.Sleep(5 * 24 * time.Hour)
		h.mustSwitch(h.Activate, broker.Selection{}, "1 changed")
		time.Sleep(47 * time.Hour)
		if h.record(h.key).Credentials == nil {
			t.Error("the credentials were cleared")
		}
		time.Sleep(3 * time.Hour)
		if h.record(h.key).Credentials != nil {
			t.Error("the credentials were not cleared")
		}
		h.wantRequests("all the time", 1)
	})
}

func TestDeletionInStandbyRevokesNothing(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		e := h.revoking()
		h.inStandby(0)
		if err := h.Delete(t.Context(), h.key); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if got := e.sent(); got != 0 {
			t.Errorf("got %d revocations, want none", got)
		}
		if got := h.logLines("revoked at the provider"); len(got) > 0 {
			t.Errorf("the log has %q", got)
		}
		h.mustImport("a2", "r2", issued(0))
		if h.record(h.key).Standby {
			t.Error("a connection that is imported anew is in standby")
		}
	})
}

// The answer to a request that was sent before standby comes after the deletion.
func TestLateAnswerAfterADeletionInStandbyIsNotRevoked(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		e := h.revoking()
		release := h.holdAnswers("r1")
		h.mustImport("a1", "r1", issued(2*time.Hour))
		synctest.Wait()
		rec := h.record(h.key)
		rec.EnterStandby()
		h.restore(rec)
		if err := h.Delete(t.Context(), h.key); err != nil {
			t.Fatal(err)
		}
		close(release)
		time.Sleep(time.Minute)
		if got := e.sent(); got != 0 {
			t.Errorf("got %d revocations, want none", got)
		}
	})
}

// An answer that was bought before standby may hold the only refresh token that works.
func TestAnswerFromBeforeStandbyIsSaved(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		release := h.holdAnswers("r1")
		h.mustImport("a1", "r1", issued(2*time.Hour))
		synctest.Wait()
		rec := h.record(h.key)
		rec.EnterStandby()
		h.restore(rec)
		close(release)
		synctest.Wait()
		h.wantRecord(h.key, recordWant{access: "access-1-", refresh: "refresh-1-"})
		if !h.record(h.key).Standby {
			t.Error("the answer ended the standby")
		}
	})
}

// A replica that has not seen the change yet decides on the record that its lease would be saved
// into, whether the token is due for a refresh or has expired.
func TestReplicaThatSeesStandbyLateRedeemsNothing(t *testing.T) {
	t.Parallel()
	for _, age := range []time.Duration{58 * time.Minute, 2 * time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			both := replicas(t, 2)
			late, h := both[0], both[1]
			// The switch is saved between the replica's read of the record and its lease.
			var due, switched atomic.Bool
			h.store.Fail = func(op string, key record.Key) error {
				if op == brokertest.OpSave && key == h.key && due.Load() && !switched.Swap(true) {
					h.mustSwitch(h.EnterStandby, broker.Selection{}, "1 changed")
				}
				return nil
			}
			h.provider.Grant("r1")
			late.mustImport("a1", "r1", issued(0))
			time.Sleep(age)
			due.Store(true)
			tok, err := late.Source(h.key).Token(t.Context())
			if isValid := age < time.Hour; isValid && tok.AccessToken.Reveal() != "a1" || !isValid && !errors.Is(err, record.ErrStandby) {
				t.Errorf("at %v: got %v, %v", age, tok, err)
			}
			synctest.Wait()
			if !switched.Load() {
				t.Fatal("the replica has not tried to save a lease")
			}
			time.Sleep(time.Hour)
			late.wantStandbyError()
			h.wantRequests("in standby", 0)
			if rec := h.record(h.key); rec.Lease != nil || !rec.Standby {
				t.Errorf("got lease %v, standby %t, want none and true", rec.Lease, rec.Standby)
			}
		})
	}
}

// Whether the connection was deleted in standby cannot be told while the store is down.
func TestNothingIsRevokedWhileTheRecordCannotBeRead(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		e := h.revoking()
		h.mustImport("a1", "r1", issued(0))
		var deleted, down atomic.Bool
		down.Store(true)
		h.store.Fail = func(op string, key record.Key) error {
			if op == brokertest.OpSave && key == h.key {
				deleted.Store(true)
			}
			if op == brokertest.OpLoad && deleted.Load() && down.Load() {
				return record.ErrStoreUnavailable
			}
			return nil
		}
		if err := h.Delete(t.Context(), h.key); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := e.sent(); got != 0 {
			t.Errorf("got %d revocations without the record, want none", got)
		}
		down.Store(false)
		time.Sleep(time.Minute)
		if got, want := e.revoked(), "r1 refresh_token"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}
