package broker_test

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// All replicas are called and try to refresh. Each step is announced once: pending with
// the first failure, failed when the broker gives up, recovered with the next success.
func TestCycleIsToldOnceAcrossReplicas(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		all := replicas(t, 3)
		provider := all[0].provider
		told := func() string {
			synctest.Wait()
			return eventsOf(all)
		}
		call := func(howLong time.Duration) {
			for begun := time.Now(); time.Since(begun) < howLong; time.Sleep(5 * time.Second) {
				for _, h := range all {
					_, _ = h.Source(h.key).Token(t.Context())
				}
			}
		}
		var down atomic.Bool
		down.Store(true)
		provider.Respond = func(int, url.Values) (*http.Response, error) {
			if down.Load() {
				return brokertest.Response(http.StatusServiceUnavailable, "down"), nil
			}
			return nil, nil
		}
		provider.Grant("r1")
		all[0].mustImport("a1", "r1", issued(2*time.Hour))
		call(5 * time.Minute)
		if got := told(); got != "pending" {
			t.Errorf("after the first failures: got events %q, want pending", got)
		}
		call(30 * time.Minute)
		for event, want := range map[string]int{"pending": 1, "failed": 1, "recovered": 0} {
			if got := told(); strings.Count(got, event) != want {
				t.Errorf("after the broker gave up: got events %q, want %s %d times", got, event, want)
			}
		}
		down.Store(false)
		call(10 * time.Minute)
		for _, event := range []string{"pending", "failed", "recovered"} {
			if got := told(); strings.Count(got, event) != 1 {
				t.Errorf("after the recovery: got events %q, want %s once", got, event)
			}
		}
		for _, h := range all {
			h.token(h.key)
		}
	})
}

// An eventLog keeps the emitted events.
type eventLog struct {
	mu     sync.Mutex // guards events
	events []record.Event
}

func (l *eventLog) Emit(_ context.Context, e record.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, e)
}

// types returns the types of the emitted events, without their common prefix.
func (l *eventLog) types() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var types []string
	for _, e := range l.events {
		types = append(types, strings.TrimPrefix(string(e.Type), "vault.connection.token_refresh."))
	}
	return strings.Join(types, " ")
}

// eventsOf returns what the replicas have emitted.
func eventsOf(all []*harness) string {
	var events []string
	for _, h := range all {
		if types := h.events.types(); types != "" {
			events = append(events, types)
		}
	}
	return strings.Join(events, " ")
}
