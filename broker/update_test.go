package broker_test

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/apideck"
	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// update parses a JSON body and updates the connection.
func (h *harness) update(key record.Key, body string) (*record.Connection, error) {
	h.t.Helper()
	up, err := apideck.ParseUpdate([]byte(body))
	if err != nil {
		h.t.Fatal(err)
	}
	return h.Update(h.t.Context(), key, up)
}

func (h *harness) mustUpdate(key record.Key, body string) *record.Connection {
	h.t.Helper()
	conn, err := h.update(key, body)
	if err != nil {
		h.t.Fatalf("update: %v", err)
	}
	return conn
}

func TestUpdateOfNothingIsNotSaved(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.mustImport("a1", "r1", issued(0))
		h.mustUpdate(h.key, `{"settings": {"note": "x", "secret_note": "`+brokertest.AccessCanary+`"}, "metadata": {"n": 1.50}}`)
		synctest.Wait()
		before := h.record(h.key)
		h.store.Fail = func(op string, _ record.Key) error {
			if op == brokertest.OpSave {
				t.Error("the record was saved")
			}
			return nil
		}
		time.Sleep(time.Minute)
		for _, body := range []string{
			`{}`, `{"enabled": true}`, `{"settings": {"note": "x", "secret_note": "********"}, "metadata": {"n": 1.50, "absent": null}}`,
		} {
			got := h.mustUpdate(h.key, body)
			if !got.UpdatedAt.Equal(before.UpdatedAt) {
				t.Errorf("%s: got updated at %v, want %v as before", body, got.UpdatedAt, before.UpdatedAt)
			}
			if got.Settings["secret_note"] != record.Mask {
				t.Errorf("%s: got settings %v, want the secret masked", body, got.Settings)
			}
		}
	})
}

func TestDisabledConnectionGetsNoCredential(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.mustImport("a1", "r1", issued(0))
		other := newHarnessOn(t, h.store, h.provider)
		if got := other.token(h.key); got != "a1" {
			t.Fatalf("the other replica: got %q, want a1", got)
		}
		if got := h.mustUpdate(h.key, `{"enabled": false}`); got.Enabled {
			t.Error("the connection is enabled")
		}
		if _, err := h.Authorize(request(t, "https://api.acme.test/"), h.key); !errors.Is(err, record.ErrConnectionDisabled) {
			t.Errorf("in this process: got %v, want ErrConnectionDisabled at once", err)
		}
		time.Sleep(record.DefaultCacheTTL)
		if _, err := other.Source(h.key).Token(t.Context()); !errors.Is(err, record.ErrConnectionDisabled) {
			t.Errorf("in another process: got %v, want ErrConnectionDisabled", err)
		}
	})
}

func TestDisabledConnectionIsRefreshedOnceItIsEnabledAgain(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.provider.Grant("r1")
		h.mustImport("a1", "r1", issued(0))
		h.mustUpdate(h.key, `{"enabled": false}`)
		for range 3 {
			time.Sleep(time.Hour) // the token expires after the first
			if _, err := h.Source(h.key).Token(t.Context()); !errors.Is(err, record.ErrConnectionDisabled) {
				t.Errorf("got %v, want ErrConnectionDisabled", err)
			}
		}
		h.wantRequests("while it is disabled", 0)
		h.mustUpdate(h.key, `{"enabled": true}`)
		if got := h.token(h.key); !strings.HasPrefix(got, "access-1") {
			t.Errorf("enabled again: got %q, want a fresh token", got)
		}
	})
}

// A call that waits for the refresh fails, and the refreshed token is saved.
func TestConnectionIsDisabledDuringItsRefresh(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		release := h.holdAnswers("r1")
		h.mustImport("a1", "r1", issued(2*time.Hour))
		answered := make(chan error, 1)
		go func() {
			_, err := h.Source(h.key).Token(t.Context())
			answered <- err
		}()
		synctest.Wait()
		h.mustUpdate(h.key, `{"enabled": false, "metadata": {"why": "left"}}`)
		close(release)
		if err := <-answered; !errors.Is(err, record.ErrConnectionDisabled) {
			t.Errorf("got %v, want ErrConnectionDisabled", err)
		}
		rec := h.wantRecord(h.key, recordWant{refresh: "refresh-1"})
		if rec.Enabled {
			t.Error("the connection is enabled")
		}
		if rec.Metadata["why"] != "left" {
			t.Errorf("got metadata %v, want those of the update", rec.Metadata)
		}
	})
}

func TestUpdateOfCredentialsRaisesTheGeneration(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		key := h.at(keyed)
		h.mustImportBody(key, `{"settings": {"api_key": "`+brokertest.AccessCanary+`", "region": "eu"}}`)
		for _, step := range []struct {
			body       string
			generation uint64
		}{
			{`{"settings": {"region": "us"}}`, 1},
			{`{"settings": {"api_key": "********"}, "metadata": {"a": 1}}`, 1},
			{`{"settings": {"api_key": "another"}}`, 2},
			{`{"enabled": false}`, 2},
		} {
			h.mustUpdate(key, step.body)
			if got := h.record(key).Generation; got != step.generation {
				t.Errorf("after %s: got generation %d, want %d", step.body, got, step.generation)
			}
		}
		synctest.Wait()
		brokertest.NoCanary(t, "the store, earlier revisions included,", h.store.Contents())
	})
}

// ofTenant imports a connection whose token requests name a tenant, from its settings.
func (h *harness) ofTenant(name string) record.Key {
	h.t.Helper()
	h.connectTenants()
	key := h.at(cc)
	h.mustImportBody(key, `{"credentials": {"access_token": "a0"}, "settings": {"tenant": "`+name+`"}}`)
	synctest.Wait()
	return key
}

// A token fetched with other settings may be another user's.
func TestUpdateOfSettingsForgetsAFetchedToken(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		key := h.ofTenant("a")
		before := h.token(key)
		h.mustUpdate(key, `{"metadata": {"plan": "gold"}}`)
		if got := h.token(key); got != before {
			t.Errorf("after an update of metadata: got %q, want %q", got, before)
		}
		h.mustUpdate(key, `{"settings": {"tenant": "b"}}`)
		if got := h.token(key); got == before {
			t.Error("after an update of settings: the token is still the old one")
		}
	})
}

func TestTokenThatIsFetchedDuringAnUpdateOfSettingsIsDropped(t *testing.T) {
	t.Parallel()
	for name, begin := range map[string]func(h *harness, key record.Key){
		"there was a token": func(*harness, record.Key) { time.Sleep(2 * time.Hour) },
		"there was none":    func(h *harness, key record.Key) { h.mustUpdate(key, `{"settings": {"tenant": "none"}}`) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			virtually(t, func(t *testing.T, h *harness) {
				key := h.ofTenant("a")
				before := len(h.provider.Requests())
				release := make(chan struct{})
				h.provider.Deliver = func(n int) error {
					if n == before+1 {
						<-release
					}
					return nil
				}
				begin(h, key)
				synctest.Wait()
				answered := make(chan string, 1)
				go func() { answered <- h.token(key) }()
				synctest.Wait()
				h.mustUpdate(key, `{"settings": {"tenant": "b"}}`)
				close(release)
				if got, want := <-answered, fmt.Sprintf("access-%d", before+2); !strings.HasPrefix(got, want) {
					t.Errorf("got %q, want %s: the token of the second request", got, want)
				}
				h.wantRequests("with the former and the new settings", before+2)
			})
		})
	}
}

func TestUpdateDuringAnOutageIsNotLost(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		var down atomic.Bool
		h.store.Fail = func(op string, _ record.Key) error {
			if down.Load() && op == brokertest.OpSave {
				return record.ErrStoreUnavailable
			}
			return nil
		}
		h.mustImport("a1", "r1", issued(0))
		down.Store(true)
		if _, err := h.update(h.key, `{"enabled": false}`); !errors.Is(err, record.ErrStoreUnavailable) {
			t.Errorf("got %v, want ErrStoreUnavailable", err)
		}
		if got := h.token(h.key); got != "a1" {
			t.Errorf("got %q, want a1: the update is not stored", got)
		}
		down.Store(false)
		h.mustUpdate(h.key, `{"enabled": false}`)
	})
}

func TestUpdateIsRefused(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		up := &record.Update{}
		if _, err := h.Update(t.Context(), h.key, up); !errors.Is(err, record.ErrConnectionNotFound) {
			t.Errorf("without a connection: got %v, want ErrConnectionNotFound", err)
		}
		unknown := h.key
		unknown.Connector.ServiceID = "unknown"
		if _, err := h.Update(t.Context(), unknown, up); !errors.Is(err, record.ErrConnectorNotFound) {
			t.Errorf("without a connector: got %v, want ErrConnectorNotFound", err)
		}
	})
}
