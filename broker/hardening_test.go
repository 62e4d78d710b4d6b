package broker_test

import (
	"errors"
	"fmt"
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
)

func TestExpiredGrantImportedDuringARedeemIsRefreshedToo(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		release := make(chan struct{})
		h.provider.Grant("r1")
		h.provider.Grant("r2")
		h.provider.Deliver = func(n int) error {
			if n == 1 {
				<-release
			}
			return nil
		}
		h.mustImport("a1", "r1", issued(2*time.Hour))
		synctest.Wait()
		if got := h.mustImport("a2", "r2", issued(90*time.Minute)); got != record.ImportStored {
			t.Fatalf("got %q, want stored", got)
		}
		close(release)
		synctest.Wait()
		if got := fmt.Sprint(h.redeemed()); got != "[r1 r2]" {
			t.Errorf("redeemed %s, want [r1 r2]", got)
		}
		if got := h.token(h.key); !strings.HasPrefix(got, "access-2-") {
			t.Errorf("got %q, want the token of the second grant", got)
		}
	})
}

func TestFarRetryDoesNotKeepANearerOneWaiting(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.provider.Grant("r2")
		h.provider.Respond = func(n int, _ url.Values) (*http.Response, error) {
			if n > 2 {
				return nil, nil
			}
			resp := brokertest.Response(503, "")
			if n == 1 {
				resp.Header.Set("Retry-After", "3600")
			}
			return resp, nil
		}
		h.mustImport("a1", "r1", issued(2*time.Hour))
		synctest.Wait()
		h.mustImport("a2", "r2", issued(90*time.Minute))
		time.Sleep(10 * time.Second)
		if got := fmt.Sprint(h.redeemed()); got != "[r1 r2 r2]" {
			t.Errorf("redeemed %s after ten seconds, want [r1 r2 r2]", got)
		}
	})
}

func TestSaveWhoseAnswerWasLostIsRecognised(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.provider.Grant("r1-" + brokertest.RefreshCanary)
		var lose, failed atomic.Bool
		h.provider.Respond = func(int, url.Values) (*http.Response, error) {
			if !failed.Swap(true) {
				return brokertest.Response(503, ""), nil // so that there is something to recover from
			}
			return nil, nil
		}
		h.provider.Deliver = func(int) error { lose.Store(true); return nil }
		h.store.FailAfter = func(op string, _ record.Key) error {
			if op == brokertest.OpSave && lose.Swap(false) {
				return record.ErrStoreUnavailable
			}
			return nil
		}
		h.mustImport("a1-"+brokertest.AccessCanary, "r1-"+brokertest.RefreshCanary, issued(2*time.Hour))
		time.Sleep(time.Minute)
		if got := h.token(h.key); !strings.HasPrefix(got, "access-1-") {
			t.Errorf("got %q", got)
		}
		if got := h.events.types(); got != "pending recovered" {
			t.Errorf("got events %q, want pending recovered", got)
		}
		if strings.Contains(string(h.store.Contents()), "a1-") {
			t.Error("the replaced credentials were not destroyed")
		}
		if log := h.log.String(); strings.Contains(log, "no use") || strings.Contains(log, "dropped") {
			t.Errorf("the log says that a token was dropped:\n%s", log)
		}
	})
}

func TestExpiredTokenIsNotServedWhileASaveIsRetried(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		var readOnly atomic.Bool
		h.store.Fail = func(op string, _ record.Key) error {
			if op == brokertest.OpSave && readOnly.Load() {
				return record.ErrStoreUnavailable
			}
			return nil
		}
		h.provider.Grant("r1")
		h.provider.Deliver = func(n int) error { readOnly.Store(n == 1); return nil }
		h.mustImport("a1", "r1", issued(2*time.Hour))
		synctest.Wait()
		h.token(h.key)
		time.Sleep(2 * time.Hour)
		if _, err := h.Source(h.key).Token(t.Context()); !errors.Is(err, record.ErrStoreUnavailable) {
			t.Errorf("got %v, want ErrStoreUnavailable", err)
		}
		readOnly.Store(false)
		time.Sleep(time.Minute)
		h.token(h.key)
	})
}

func TestJournalThatWasReplayedTwiceChangesNothing(t *testing.T) {
	t.Parallel()
	for _, keep := range []bool{false, true} {
		t.Run(fmt.Sprintf("rotates=%v", !keep), func(t *testing.T) {
			t.Parallel()
			virtually(t, func(t *testing.T, h *harness) {
				down := h.failing()
				h.provider.KeepRefresh = keep
				h.provider.Grant("r1")
				h.provider.Deliver = func(n int) error { down.Store(n == 1); return nil }
				h.mustImport("a1", "r1", issued(2*time.Hour))
				synctest.Wait()
				var entries []record.JournalEntry
				for entry, err := range h.journal.Entries(t.Context()) {
					if err != nil {
						t.Fatal(err)
					}
					entries = append(entries, entry)
				}
				down.Store(false)
				time.Sleep(2 * time.Hour)
				h.token(h.key)
				synctest.Wait()
				before := h.record(h.key)
				for _, entry := range entries { // as if their removal had failed
					if err := h.journal.Put(t.Context(), entry.ID, entry.Data); err != nil {
						t.Fatal(err)
					}
				}
				abandon(t, h.Broker)
				h.start()
				h.Start()
				time.Sleep(time.Minute)
				if after := h.record(h.key); after.Generation != before.Generation ||
					!after.Credentials.AccessToken.Equal(before.Credentials.AccessToken) || len(entries) != 1 {
					t.Errorf("%d entries changed generation %d to %d", len(entries), before.Generation, after.Generation)
				}
				if got := h.journal.Len(); got != 0 {
					t.Errorf("got %d entries in the journal, want none", got)
				}
			})
		})
	}
}

func TestSettingThatDoesNotFitIsRefusedAtImport(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		id := connector.ID{UnifiedAPI: "crm", ServiceID: "tenants"}
		def := connector.Definition{
			ID: id, Name: "Tenants", AuthType: connector.OAuth2, AuthStyle: connector.AuthHeader,
			TokenURL: "https://{tenant}.acme.test/token", BaseURL: "https://{tenant}.acme.test",
			AllowHosts: []string{"*.acme.test"}, Settings: []connector.Setting{{Name: "tenant", Required: true}},
		}
		if err := def.Validate(); err != nil {
			t.Fatal(err)
		}
		h.config.Connectors[id] = &record.Connector{Definition: def.WithDefaults()}
		for setting, good := range map[string]bool{
			`"eu"`: true, `"evil.test/x"`: false, `"a.b"`: false, `"x#"`: false, `"-"`: false, `["eu"]`: false, `7`: true,
		} {
			_, _, err := h.importBody(h.at(id), `{"credentials":{"access_token":"a","refresh_token":"r",`+issued(0)+`},"settings":{"tenant":`+setting+`}}`)
			input, bad := errors.AsType[*record.InputError](err)
			if bad == good || bad && (input.Field != "settings.tenant" || input.Kind != record.InputInvalid) {
				t.Errorf("%s: got %v", setting, err)
			}
		}
	})
}

func TestMaskInsideASettingStaysAsItWas(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.mustImport("a1", "r1", issued(0))
		for _, settings := range []string{
			`{"proxy":{"user":"u","password":"` + brokertest.SettingCanary + `"},"keys":[{"api_key":"k"}]}`,
			`{"proxy":{"user":"v","password":"` + record.Mask + `"},"keys":[{"api_key":"` + record.Mask + `"}]}`,
		} {
			if _, _, err := h.importBody(h.key, `{"settings":`+settings+`}`); err != nil {
				t.Fatal(err)
			}
		}
		got := fmt.Sprint(h.record(h.key).Settings)
		if want := "map[keys:[map[api_key:k]] proxy:map[password:" + brokertest.SettingCanary + " user:v]]"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
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
			t.Errorf("1000 calls for a dead connection cost %d loads", got)
		}
	})
}
