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
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

func (h *harness) mustValidate(key record.Key) record.State {
	h.t.Helper()
	conn, err := h.Validate(h.t.Context(), key)
	if err != nil {
		h.t.Fatalf("validate: %v", err)
	}
	return conn.State
}

func TestValidateRefreshesAValidToken(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.provider.Grant("r1")
		h.mustImport("a1", "r1", issued(0))
		if got := h.mustValidate(h.key); got != record.StateCallable {
			t.Errorf("got %s, want callable", got)
		}
		if got := h.token(h.key); !strings.HasPrefix(got, "access-1") {
			t.Errorf("got %q, want the new token", got)
		}
		for range 5 {
			h.mustValidate(h.key)
		}
		h.wantRequests("within the cooldown", 1)
		other := newHarnessOn(t, h.store, h.provider)
		other.mustValidate(h.key)
		h.wantRequests("by another replica within the cooldown", 1)
		time.Sleep(10 * time.Second)
		h.mustValidate(h.key)
		h.wantRequests("after the cooldown", 2)
		if h.provider.Revoked("r1") {
			t.Error("the grant was revoked: a spent refresh token was sent")
		}
	})
}

func TestManyWhoValidateShareOneRefresh(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		release := h.holdAnswers("r1")
		h.mustImport("a1", "r1", issued(0))
		var callable atomic.Int32
		for range 50 {
			go func() {
				if h.mustValidate(h.key) == record.StateCallable {
					callable.Add(1)
				}
			}()
		}
		synctest.Wait()
		close(release)
		synctest.Wait()
		if callable.Load() != 50 {
			t.Errorf("%d of 50 callers got callable, want all", callable.Load())
		}
		h.wantRequests("for all", 1)
	})
}

func TestValidateGivesARefusedRefreshTokenOneTry(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.provider.Respond = refuse
		h.mustImport("a1", "r1", issued(2*time.Hour))
		synctest.Wait()
		h.wantRequests("after the import", 1)
		expire := h.record(h.key).Cycle.CredentialsExpireAt
		if got := h.mustValidate(h.key); got != record.StateInvalid {
			t.Errorf("got %s, want invalid", got)
		}
		h.wantRequests("within 30 s", 1)
		time.Sleep(30 * time.Second)
		for range 3 {
			if got := h.mustValidate(h.key); got != record.StateInvalid {
				t.Errorf("got %s, want invalid", got)
			}
			if _, err := h.Source(h.key).Token(t.Context()); err == nil {
				t.Error("a token was handed out")
			}
		}
		h.wantRequests("after 30 s", 2)
		if got := h.record(h.key).Cycle.CredentialsExpireAt; !got.Equal(expire) {
			t.Errorf("the credentials expire at %v, want %v as before", got, expire)
		}
	})
}

func TestValidateMendsARefusedRefreshTokenThatWorksAgain(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.provider.Respond = refuse
		h.mustImport("a1", "r1", issued(2*time.Hour))
		synctest.Wait()
		h.provider.Respond = nil
		h.provider.Grant("r1")
		time.Sleep(30 * time.Second)
		if got := h.mustValidate(h.key); got != record.StateCallable {
			t.Errorf("got %s, want callable", got)
		}
		if got := h.events.types(); got != "failed recovered" {
			t.Errorf("got the events %q, want failed recovered", got)
		}
		if got := h.token(h.key); !strings.HasPrefix(got, "access-1") {
			t.Errorf("got %q, want the new token", got)
		}
	})
}

// An attempt without a clear answer leaves a refused refresh token refused.
func TestValidateOfARefusedRefreshTokenIsNotRetried(t *testing.T) {
	t.Parallel()
	for name, respond := range map[string]func(int, url.Values) (*http.Response, error){
		"unavailable": func(int, url.Values) (*http.Response, error) {
			return brokertest.Response(http.StatusServiceUnavailable, "down"), nil
		},
		"no answer": func(int, url.Values) (*http.Response, error) {
			return brokertest.Response(http.StatusBadGateway, ""), nil
		},
		"wrong client": func(int, url.Values) (*http.Response, error) {
			return brokertest.Response(http.StatusUnauthorized, map[string]any{"error": "invalid_client"}), nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			virtually(t, func(t *testing.T, h *harness) {
				h.provider.Respond = refuse
				h.mustImport("a1", "r1", issued(2*time.Hour))
				synctest.Wait()
				h.provider.Respond = respond
				time.Sleep(time.Minute)
				if got := h.mustValidate(h.key); got != record.StateInvalid {
					t.Errorf("got %s, want invalid", got)
				}
				time.Sleep(time.Hour)
				if _, err := h.Source(h.key).Token(t.Context()); err == nil {
					t.Error("a token was handed out")
				}
				h.wantRequests("in an hour", 2)
				rec := h.record(h.key)
				if !rec.IsParked() {
					t.Error("the connection is not parked")
				}
				if rec.Cycle.Code != "invalid_grant" {
					t.Errorf("got code %s, want invalid_grant", rec.Cycle.Code)
				}
				if rec.Lease != nil {
					t.Errorf("got lease %+v, want none", rec.Lease)
				}
				if got := h.events.types(); got != "failed" {
					t.Errorf("got the events %q, want one failed", got)
				}
			})
		})
	}
}

// The token is served as long as it is valid, but the connection is invalid.
func TestValidateTellsOfARefusalWhileTheTokenIsValid(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.provider.Respond = refuse
		h.mustImport("a1", "r1", issued(0))
		for range 2 {
			if got := h.mustValidate(h.key); got != record.StateInvalid {
				t.Errorf("got %s, want invalid", got)
			}
		}
		if got := h.token(h.key); got != "a1" {
			t.Errorf("got %q, want a1, which is valid", got)
		}
	})
}

func TestValidateThatFindsOutNothing(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.provider.Respond = func(int, url.Values) (*http.Response, error) {
			return brokertest.Response(http.StatusServiceUnavailable, "down"), nil
		}
		h.mustImport("a1", "r1", issued(0))
		if got := h.mustValidate(h.key); got != record.StateCallable {
			t.Errorf("with a valid token: got %s, want callable", got)
		}
		sent := len(h.provider.Requests())
		h.mustValidate(h.key)
		h.wantRequests("during the backoff", sent)
		time.Sleep(2 * time.Hour)
		_, err := h.Validate(t.Context(), h.key)
		if failed := wantTokenError(t, err, record.ClassTransient); failed.Parked {
			t.Errorf("without a valid token: got %v, want a TokenError of a connection that is not parked", err)
		}
		synctest.Wait()
		h.store.Fail = func(string, record.Key) error { return record.ErrStoreUnavailable }
		if _, err := h.Validate(t.Context(), h.key); !errors.Is(err, record.ErrStoreUnavailable) {
			t.Errorf("without a store: got %v, want ErrStoreUnavailable", err)
		}
	})
}

func TestValidateOfWhatCannotBeRefreshed(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		key := h.at(long)
		h.mustImportBody(key, `{"credentials": {"access_token": "a1", `+issued(0)+`}}`)
		if got := h.mustValidate(key); got != record.StateCallable {
			t.Errorf("a valid token: got %s, want callable", got)
		}
		time.Sleep(2 * time.Hour)
		if got := h.mustValidate(key); got != record.StateInvalid {
			t.Errorf("an expired one: got %s, want invalid", got)
		}
		h.wantRequests("without a refresh token", 0)

		h.mustImportBody(h.at(keyed), `{"settings": {"api_key": "k"}}`)
		if got := h.mustValidate(h.at(keyed)); got != record.StateCallable {
			t.Errorf("an API key: got %s, want callable", got)
		}
		h.mustUpdate(h.at(keyed), `{"settings": {"api_key": null}}`)
		if got := h.mustValidate(h.at(keyed)); got != record.StateAdded {
			t.Errorf("no API key: got %s, want added", got)
		}
	})
}

// The process that makes the attempt dies. The next validation takes the lease over, and
// counts an ambiguous outcome.
func TestTryOfARefusedRefreshTokenIsTakenOver(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.provider.Respond = refuse
		h.mustImport("a1", "r1", issued(2*time.Hour))
		synctest.Wait()
		rec := h.record(h.key)
		rec.Lease = &record.Lease{ID: "of a process that is gone", Duration: 45 * time.Second, RefreshToken: rec.Credentials.RefreshToken.Hash()}
		h.restore(rec)
		time.Sleep(time.Minute)
		begun := time.Now()
		if got := h.mustValidate(h.key); got != record.StateInvalid {
			t.Errorf("got %s, want invalid", got)
		}
		if waited := time.Since(begun); waited < 45*time.Second {
			t.Errorf("it waited for %v, want the whole lease", waited)
		}
		if got := h.record(h.key).Cycle.Ambiguous; got != 1 {
			t.Errorf("got %d ambiguous outcomes, want 1", got)
		}
	})
}
