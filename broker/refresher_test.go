package broker_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker"
	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// Callers name consumers freely.
func TestInventedConsumersLeaveNothingInMemory(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		down := h.failing()
		h.mustImport("a1", "r1", issued(0))
		for _, outage := range []bool{false, true} {
			down.Store(outage)
			want := record.ErrConnectionNotFound
			if outage {
				want = record.ErrStoreUnavailable
			}
			var wg sync.WaitGroup
			for i := range 300 {
				key := h.of(fmt.Sprint("invented ", i/3))
				wg.Go(func() {
					var err error
					switch i % 3 {
					case 0:
						_, err = h.Source(key).Token(t.Context())
					case 1:
						_, err = h.Authorize(request(t, "https://api.acme.test/"), key)
					case 2:
						_, err = h.Connection(t.Context(), key)
					}
					if !errors.Is(err, want) {
						t.Errorf("got %v, want %v", err, want)
					}
				})
			}
			wg.Wait()
			synctest.Wait()
			if got := h.InMemory(); got != 1 {
				t.Errorf("outage %t: %d connections are in memory, want 1", outage, got)
			}
		}
		down.Store(false)
		if got := h.token(h.key); got != "a1" {
			t.Errorf("got %q, want a1", got)
		}
	})
}

// The same for calls that fail before they reach a record.
func TestRefusedCallsForInventedConsumersLeaveNothingInMemory(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		for name, try := range map[string]func(key record.Key) error{
			"import of nothing": func(key record.Key) error {
				_, _, err := h.importBody(key, `{"settings": {"a": 1}}`)
				return err
			},
			"update": func(key record.Key) error {
				_, err := h.Update(t.Context(), key, &record.Update{Settings: map[string]any{"a": "b"}})
				return err
			},
			"delete": func(key record.Key) error { return h.Delete(t.Context(), key) },
			"admission and no call": func(key record.Key) error {
				admission, err := h.Admit(t.Context(), key)
				if err == nil {
					admission.Release()
				}
				return record.ErrConnectionNotFound
			},
			"admission refused": func(key record.Key) error {
				h.configure(func(cfg *record.Config) { cfg.Limits.Connection = -1 })
				admission, err := h.Admit(t.Context(), key)
				if err == nil {
					defer admission.Release()
				}
				_, err = admission.Authorize(request(t, "https://evil.test/"))
				return err
			},
			"call to a URL that is not allowed": func(key record.Key) error {
				return h.admitCall(key, "https://api.acme.test/a/%2e%2e/b")
			},
			"call to a URL with settings": func(key record.Key) error {
				return h.admitCall(key, "https://api.acme.test/{account}")
			},
			"validate": func(key record.Key) error { _, err := h.Validate(t.Context(), key); return err },
			"token":    func(key record.Key) error { _, err := h.ObtainToken(t.Context(), key); return err },
		} {
			for i := range 100 {
				key := h.of(fmt.Sprint("invented ", i))
				if err := try(key); err == nil {
					t.Errorf("%s: got no error", name)
				}
			}
			synctest.Wait()
			if got := h.InMemory(); got != 0 {
				t.Errorf("%s: %d connections are in memory, want none", name, got)
			}
		}
	})
}

// admitCall admits and releases a call.
func (h *harness) admitCall(key record.Key, url string) error {
	target, err := connector.ParseTarget(url, "", "")
	if err != nil {
		return err
	}
	admission, _, err := h.AdmitCall(context.Background(), broker.ProxyCall{
		Application: key.Application, Consumer: key.Consumer,
		UnifiedAPI: key.Connector.UnifiedAPI, ServiceID: key.Connector.ServiceID, Target: target,
	})
	if err == nil {
		admission.Release()
	}
	return err
}

// That holds even if a source was made for the key before.
func TestAdmitRefusesKeysThatCanNameNothing(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		for _, consumer := range []string{"", "a\nb", strings.Repeat("a", 1000)} {
			key := h.of(consumer)
			_, _ = h.Source(key).Token(t.Context())
			_, err := h.Admit(t.Context(), key)
			if _, ok := errors.AsType[*record.InputError](err); !ok {
				t.Errorf("%.10q: got %v, want an *InputError", consumer, err)
			}
			err = h.admitCall(key, "https://api.acme.test/")
			if _, ok := errors.AsType[*record.InputError](err); !ok {
				t.Errorf("%.10q: got %v for a call, want an *InputError", consumer, err)
			}
		}
	})
}

// A source from before the connection was imported shares everything with later ones.
func TestSourceOfAnInventedConsumerWorksOnceThereIsAConnection(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		early := h.Source(h.key)
		for range 2 {
			if _, err := early.Token(t.Context()); !errors.Is(err, record.ErrConnectionNotFound) {
				t.Fatalf("got %v, want ErrConnectionNotFound", err)
			}
		}
		h.provider.Grant("r1")
		h.provider.Deliver = func(int) error { time.Sleep(10 * time.Second); return nil }
		h.mustImport("a1", "r1", issued(2*time.Hour))
		var wg sync.WaitGroup
		for _, source := range []broker.Source{early, h.Source(h.key), early} {
			wg.Go(func() {
				if tok, err := source.Token(t.Context()); err != nil || tok.Generation != 2 {
					t.Errorf("got generation %d, %v; want 2", tok.Generation, err)
				}
			})
		}
		wg.Wait()
		if got := len(h.provider.Requests()); got != 1 {
			t.Errorf("got %d token requests, want 1", got)
		}
	})
}

// The broker remembers a deleted connection for as long as its tombstone lasts: a restored
// backup could bring it back.
func TestDeletedConnectionsLeaveMemoryAfterTheirTombstones(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.mustImport("a1", "r1", issued(0))
		if err := h.Delete(t.Context(), h.key); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Hour)
		if got := h.InMemory(); got != 1 {
			t.Errorf("after 20 hours %d connections are in memory, want 1", got)
		}
		time.Sleep(10 * time.Hour)
		if got := h.InMemory(); got != 0 {
			t.Errorf("after 30 hours %d connections are in memory, want none", got)
		}
	})
}

// Callers of a connection that comes and goes get its latest token, and each of its refresh
// tokens is sent once.
func TestConnectionThatComesAndGoesHasOneRefreshAtATime(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		var under, most atomic.Int32
		h.provider.Deliver = func(int) error {
			most.Store(max(most.Load(), under.Add(1)))
			time.Sleep(time.Second)
			under.Add(-1)
			return nil
		}
		source := h.Source(h.key)
		const rounds = 30
		for i := range rounds {
			refresh := fmt.Sprint("r", i)
			h.provider.Grant(refresh)
			var wg sync.WaitGroup
			for range 10 {
				wg.Go(func() { _, _ = source.Token(t.Context()) })
			}
			wg.Go(func() { h.mustImport("a", refresh, issued(2*time.Hour)) })
			wg.Wait()
			h.token(h.key)
			if err := h.store.Delete(t.Context(), h.key); err != nil { // as an operator does by hand
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
		}
		if got := most.Load(); got != 1 {
			t.Errorf("got %d token requests at a time, want 1", got)
		}
		if got := len(h.provider.Requests()); got != rounds {
			t.Errorf("got %d token requests, want %d", got, rounds)
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
			t.Error("the record was not read again: it was still in memory")
		}
	})
}
