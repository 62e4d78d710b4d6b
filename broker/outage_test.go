package broker_test

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker"
	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// However many calls fail, operators are told once that the store cannot be used, and once that
// it can be used again.
func TestOutageOfTheStoreIsToldOnce(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		down := h.failing()
		h.provider.Grant("r1")
		h.mustImport("a1", "r1", issued(2*time.Hour))
		h.token(h.key)
		for range 3 {
			down.Store(true)
			time.Sleep(3 * time.Hour) // the token expires
			for range 20 {
				if _, err := h.Source(h.key).Token(t.Context()); err == nil {
					t.Error("got a token without a store")
				}
				time.Sleep(time.Second)
			}
			down.Store(false)
			time.Sleep(2 * time.Minute)
			h.token(h.key)
		}
		if got := h.logLines("level=ERROR", "the store cannot be used"); len(got) != 3 {
			t.Errorf("got %d errors about 3 outages: %s", len(got), got)
		}
		if got := h.logLines("level=INFO", "the store can be used again"); len(got) != 3 {
			t.Errorf("got %d lines about 3 recoveries: %s", len(got), got)
		}
	})
}

// A store that was set back is told once for each connection, and counted.
func TestRolledBackStoreIsToldOncePerConnection(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		keys := h.customers(acme, "ann", "bob", "eve")
		var before []*record.Record
		for _, key := range keys {
			h.provider.Grant("r " + key.Consumer)
			h.mustImportBody(key, `{"credentials":{"access_token":"a","refresh_token":"r `+key.Consumer+`",`+issued(2*time.Hour)+`}}`)
			before = append(before, h.record(key))
			synctest.Wait()
			h.token(key)
		}
		for _, rec := range before {
			h.restore(rec)
		}
		for range 50 {
			for _, key := range keys {
				_, _ = h.Source(key).Token(t.Context())
			}
			time.Sleep(time.Minute)
		}
		got := h.logLines("level=ERROR", "older credentials than this process has seen")
		if len(got) != len(keys) || !strings.Contains(got[len(got)-1], "connections=3") {
			t.Errorf("got %d lines, want one for each of %d connections, counted: %s", len(got), len(keys), got)
		}
	})
}

// A refresh token that is refused after an unknown outcome was likely spent by the broker, so the
// error does not blame another system.
func TestRefusalAfterAnAmbiguousOutcomeBlamesNoOtherSystem(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.provider.Grant("r1")
		h.provider.Respond = func(n int, _ url.Values) (*http.Response, error) {
			if n == 1 {
				return brokertest.Response(500, ""), nil
			}
			return brokertest.Response(400, `{"error":"invalid_grant"}`), nil
		}
		h.mustImport("a1", "r1", issued(2*time.Hour))
		time.Sleep(time.Minute)
		_, err := h.Source(h.key).Token(t.Context())
		var failed *record.TokenError
		if !errors.As(err, &failed) || !failed.Parked {
			t.Fatalf("got %v, want a refused connection", err)
		}
		if text := err.Error(); strings.Contains(text, "elsewhere") || !strings.Contains(text, "whose outcome is unknown") {
			t.Errorf("the error is %q", text)
		}
	})
}

// A store that cannot be opened is told once as well.
func TestStoreThatCannotBeOpenedIsToldOnce(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		var missing atomic.Bool
		missing.Store(true)
		h.restart(broker.Options{Transport: h.transport(), Journal: h.journal, Open: func(context.Context) (record.Store, error) {
			if missing.Load() {
				return nil, errors.New("the key is missing")
			}
			return h.store, nil
		}})
		for range 20 {
			if _, err := h.Source(h.key).Token(t.Context()); !errors.Is(err, record.ErrStoreUnavailable) {
				t.Errorf("got %v, want that the store is unavailable", err)
			}
			time.Sleep(time.Second)
		}
		missing.Store(false)
		_, _ = h.Source(h.key).Token(t.Context())
		if got := h.logLines("level=ERROR", "the store cannot be used", "the key is missing"); len(got) != 1 {
			t.Errorf("got %d errors, want one: %s", len(got), got)
		}
		if got := h.logLines("level=INFO", "the store can be used again"); len(got) != 1 {
			t.Errorf("got %d lines about the recovery, want one: %s", len(got), got)
		}
	})
}
