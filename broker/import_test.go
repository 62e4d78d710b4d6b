package broker_test

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// What an import may contain is tested in packages apideck and record.
func TestRefusedImportStoresNothing(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.connect(connector.Definition{ID: acme, BaseURL: "https://{tenant}.acme.test", Settings: []connector.Setting{{Name: "tenant", Required: true}}})
		const tokens = `"credentials":{"access_token":"a1","refresh_token":"r1"}`
		refuse := func(body, field string) {
			t.Helper()
			_, _, err := h.importBody(h.key, body)
			if input, ok := errors.AsType[*record.InputError](err); !ok || input.Kind != record.InputInvalid || input.Field != field {
				t.Errorf("%s: got %v, want an InputError for %s", body, err, field)
			}
		}
		refuse(`{"consumer_id":"other",`+tokens+`}`, "consumer_id")
		refuse(`{"settings":{"tenant":"mine"}}`, "credentials.access_token")
		if _, _, err := h.store.Load(t.Context(), h.key); !errors.Is(err, record.ErrNotFound) {
			t.Errorf("something was stored: %v", err)
		}

		h.provider.Grant("r1")
		h.mustImportBody(h.key, `{"settings":{"tenant":"mine"},`+tokens+`}`)
		synctest.Wait()
		_, before, err := h.store.Load(t.Context(), h.key)
		if err != nil {
			t.Fatal(err)
		}
		refuse(`{"settings":{"tenant":"evil"}}`, "settings.tenant")
		if _, err := h.update(h.key, `{"settings":{"tenant":"evil"}}`); err == nil {
			t.Error("an update sends the stored credentials to another host")
		}
		if _, after, err := h.store.Load(t.Context(), h.key); err != nil || after != before {
			t.Errorf("something was stored: got revision %d, %v, want %d", after, err, before)
		}
	})
}

func TestImportRefusesKeysThatNameNoConnection(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		unknown := h.key
		unknown.Connector.ServiceID = "nobody"
		if _, _, err := h.importBody(unknown, `{}`); !errors.Is(err, record.ErrConnectorNotFound) {
			t.Errorf("got %v, want ErrConnectorNotFound", err)
		}
		for _, consumer := range []string{"", strings.Repeat("x", 256), "a\nb", "a\x00", "\xff"} {
			bad := h.of(consumer)
			var input *record.InputError
			if _, _, err := h.importBody(bad, `{}`); !errors.As(err, &input) || input.Field != "x-apideck-consumer-id" {
				t.Errorf("consumer %q: got %v, want an InputError for the header", consumer, err)
			}
		}
	})
}

func TestImportRefreshesATokenThatMayBeExpired(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		age  time.Duration
		want bool
	}{"fresh": {time.Minute, false}, "expired": {2 * time.Hour, true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			virtually(t, func(t *testing.T, h *harness) {
				h.provider.Grant("r-" + brokertest.RefreshCanary)
				if got := h.mustImport("a", "r-"+brokertest.RefreshCanary, issued(test.age)); got != record.ImportStored {
					t.Fatalf("got %q, want stored", got)
				}
				synctest.Wait()
				if got := len(h.provider.Requests()) == 1; got != test.want {
					t.Errorf("refreshed: %v, want %v", got, test.want)
				}
				if rec := h.wantRecord(h.key, recordWant{}); rec.Cycle.Queued {
					t.Error("the refresh is still queued")
				}
			})
		})
	}
}

func TestImportDoesNotWaitForTheRefresh(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		release := h.holdAnswers("r1")
		begun := time.Now()
		h.mustImport("a1", "r1")
		if waited := time.Since(begun); waited != 0 {
			t.Errorf("the import took %v, want no time", waited)
		}
		if rec := h.record(h.key); !rec.Cycle.Queued {
			t.Error("the refresh is not stored as queued: a crash would lose it")
		}
		if got := h.token(h.key); got != "a1" {
			t.Errorf("got token %q while the refresh is in progress, want the imported one", got)
		}
		close(release)
		synctest.Wait()
		if got := h.token(h.key); !strings.HasPrefix(got, "access-1-") {
			t.Errorf("got token %q, want the refreshed one", got)
		}
	})
}

// Thousands are imported in a row, nearly always all new, or all there already.
func TestImportCostsFewRequests(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		var mu sync.Mutex
		var requests []string
		h.store.Fail = func(op string, _ record.Key) error {
			mu.Lock()
			defer mu.Unlock()
			if op != brokertest.OpDestroy { // of earlier revisions, which a store that counts for each record knows not to have
				requests = append(requests, op)
			}
			return nil
		}
		for _, step := range []struct{ what, consumer, refresh, want string }{
			{"new", "ann", "r1", "save"},
			{"new", "bob", "r2", "save"},
			{"again", "ann", "r1", "load save"},
			{"new", "cyd", "r3", "save"},
			{"another grant", "ann", "r4", "load save"},
			{"unknown to the process, but there", "ann", "r4", "save load save"},
			{"unknown to the process, but there", "bob", "r2", "load save"},
			{"unknown to the process, but there", "cyd", "r3", "load save"},
			{"new after those", "dan", "r5", "load save"},
			{"new", "eve", "r6", "save"},
		} {
			if strings.HasPrefix(step.what, "unknown") && step.consumer == "ann" {
				h.stop()
				h.start()
				synctest.Wait()
			}
			requests = nil
			key := h.key
			key.Consumer = step.consumer
			h.mustImportBody(key, fmt.Sprintf(`{"credentials":{"access_token":"a of %s","refresh_token":%q,%s}}`, step.refresh, step.refresh, issued(time.Minute)))
			synctest.Wait()
			if got := strings.Join(requests, " "); got != step.want {
				t.Errorf("%s, %s: got %q, want %q", step.consumer, step.what, got, step.want)
			}
		}
	})
}

func TestLongLifetimeIsWarnedAbout(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.mustImport("a1", "r1", `"issued_at":"2000-01-01T00:00:00Z","expires_in":3600000`)
		h.wantLogged(1, slog.LevelWarn, "lifetime=1000h0m0s")
	})
}
