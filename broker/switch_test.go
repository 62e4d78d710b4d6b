package broker_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker"
	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// A switcher is [broker.Broker.EnterStandby] or [broker.Broker.Activate].
type switcher func(ctx context.Context, application string, sel broker.Selection) (*broker.Switched, error)

// switchedWords describes what a switch has done, as in "1 changed, 2 failed".
func switchedWords(done *broker.Switched) string {
	var words []string
	for i, n := range []int{done.Changed, done.Unchanged, len(done.Failed)} {
		if n > 0 {
			words = append(words, fmt.Sprint(n, " ", []string{"changed", "unchanged", "failed"}[i]))
		}
	}
	if done.Next != (record.Key{}) {
		words = append(words, "more")
	}
	return strings.Join(words, ", ")
}

// mustSwitch switches the selected connections of the application app.
func (h *harness) mustSwitch(set switcher, sel broker.Selection, want string) *broker.Switched {
	h.t.Helper()
	done, err := set(h.t.Context(), "app", sel)
	if err != nil {
		h.t.Fatal(err)
	}
	if got := switchedWords(done); got != want {
		h.t.Errorf("got %s, %v, want %s", got, done.Failed, want)
	}
	return done
}

func TestSwitchesCanBeRepeated(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.provider.Grant("r1")
		h.mustImport("a1", "r1", issued(2*time.Hour))
		synctest.Wait()
		h.mustImportBody(h.at(keyed), `{"settings":{"api_key":"k"}}`)
		h.mustImport("a1", "r1")
		if err := h.Delete(t.Context(), h.key); err != nil {
			t.Fatal(err)
		}
		h.provider.Grant("r2")
		h.mustImportBody(h.of("other"), `{"credentials":{"access_token":"a","refresh_token":"r2",`+issued(0)+`}}`)
		h.mustSwitch(h.EnterStandby, broker.Selection{}, "2 changed")
		h.mustSwitch(h.EnterStandby, broker.Selection{}, "2 unchanged")
		if view := h.wantView(h.at(keyed), record.StateCallable, record.HealthOK); !view.Standby {
			t.Error("a connection with an API key is not in standby")
		}
		time.Sleep(2 * time.Hour)
		for _, want := range []string{"2 changed", "2 unchanged"} {
			h.mustSwitch(h.Activate, broker.Selection{}, want)
			synctest.Wait()
			h.wantRequests("activated", 2)
		}
		if got, err := h.EnterStandby(t.Context(), "another", broker.Selection{}); err != nil || switchedWords(got) != "" {
			t.Errorf("got %+v, %v for another application", got, err)
		}
	})
}

func TestSwitchSelectsConnectionsAndGoesOnWhereItWas(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		for i := range 12 {
			for _, id := range []connector.ID{acme, long} {
				key := h.at(id)
				key.Consumer = fmt.Sprint("customer-", i)
				h.mustImportBody(key, fmt.Sprintf(`{"credentials":{"access_token":"a","refresh_token":"r%d",%s}}`, i, issued(0)))
				key.Application = "app-2"
				h.mustImportBody(key, fmt.Sprintf(`{"credentials":{"access_token":"a","refresh_token":"r%d",%s}}`, i, issued(0)))
			}
		}
		one := broker.Selection{Connector: acme, Consumer: "customer-3"}
		h.mustSwitch(h.EnterStandby, one, "1 changed")
		h.mustSwitch(h.Activate, one, "1 changed")
		h.mustSwitch(h.EnterStandby, broker.Selection{Consumer: "customer-3"}, "2 changed")
		h.mustSwitch(h.Activate, broker.Selection{Consumer: "customer-3", Limit: 1}, "1 changed, more")
		sel := broker.Selection{Connector: acme, Limit: 5}
		for _, want := range []string{"5 changed, more", "5 changed, more", "2 changed"} {
			done := h.mustSwitch(h.EnterStandby, sel, want)
			sel.After = record.Key{Consumer: done.Next.Consumer, Connector: done.Next.Connector}
		}
		for key, err := range h.store.List(t.Context(), "", "") {
			if rec := h.record(key); err != nil || rec.Standby != (key.Application == "app" && (key.Connector == acme || key.Consumer == "customer-3")) {
				t.Errorf("%s: got standby %t, %v", key, rec.Standby, err)
			}
		}
		if _, err := h.EnterStandby(t.Context(), "app", broker.Selection{Consumer: "a\x00"}); err == nil {
			t.Error("a name that none can have is accepted")
		}
	})
}

// The system that refreshes from then on must not have the token while it is being spent here.
func TestStandbyWaitsForARefreshInProgress(t *testing.T) {
	t.Parallel()
	for _, exclusive := range []bool{false, true} {
		virtually(t, func(t *testing.T, h *harness) {
			h.store.Exclusive = exclusive
			release := h.holdAnswers("r1")
			h.mustImport("a1", "r1", issued(2*time.Hour))
			synctest.Wait()
			go func() {
				time.Sleep(5 * time.Second)
				close(release)
			}()
			begun := time.Now()
			h.mustSwitch(h.EnterStandby, broker.Selection{}, "1 changed")
			if took := time.Since(begun); took < 5*time.Second || took > 6*time.Second {
				t.Errorf("took %v, want 5 s", took)
			}
			h.wantRecord(h.key, recordWant{access: "access-1-"})
		})
	}
}

// The lease of a process that is gone is waited for by several calls, each of which says that it
// has not ended.
func TestStandbyWaitsForTheLeaseOfADeadReplica(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		leaveLease(t, h)
		begun := time.Now()
		for _, want := range []string{"1 failed", "1 failed", "1 unchanged"} {
			done := h.mustSwitch(h.EnterStandby, broker.Selection{}, want)
			if len(done.Failed) > 0 && !errors.Is(done.Failed[0].Err, record.ErrRefreshing) {
				t.Errorf("got %v, want ErrRefreshing", done.Failed[0].Err)
			}
		}
		if took := time.Since(begun); took < 45*time.Second || took > 46*time.Second {
			t.Errorf("took %v, want 45 s", took)
		}
		h.wantRecord(h.key, recordWant{access: "a1", ambiguous: 1})
		h.wantStandbyError()
		h.wantRequests("in standby", 0)
	})
}

func TestLeaseOfAnEarlierProcessIsNotWaitedForOnAnExclusiveStore(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.store.Exclusive = true
		leaveLease(t, h)
		begun := time.Now()
		h.mustSwitch(h.EnterStandby, broker.Selection{}, "1 changed")
		if took := time.Since(begun); took != 0 {
			t.Errorf("took %v, want no time", took)
		}
		h.wantRecord(h.key, recordWant{ambiguous: 1})
	})
}

func TestImportIntoStandbyWaitsForARefreshInProgress(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		both := replicas(t, 2)
		other, h := both[0], both[1]
		release := other.holdAnswers("r1")
		other.mustImport("a1", "r1", issued(2*time.Hour))
		synctest.Wait()
		go func() {
			time.Sleep(5 * time.Second)
			close(release)
		}()
		begun := time.Now()
		h.importStandby(h.key, true, `{"credentials":{"access_token":"a1","refresh_token":"r1",`+issued(2*time.Hour)+`}}`)
		if took := time.Since(begun); took < 5*time.Second || took > 6*time.Second {
			t.Errorf("took %v, want 5 s", took)
		}
		h.wantRecord(h.key, recordWant{access: "access-1-"})
	})
}

func TestSwitchLeavesTheRestWhileTheStoreFails(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		var down atomic.Bool
		h.store.Fail = func(op string, _ record.Key) error {
			if op == brokertest.OpSave && down.Load() {
				return record.ErrStoreUnavailable
			}
			return nil
		}
		h.importHerd("app", 100, 0)
		down.Store(true)
		done, err := h.EnterStandby(t.Context(), "app", broker.Selection{})
		if err != nil || done.Changed != 0 || len(done.Failed) < 32 || len(done.Failed) > 99 || done.Next == (record.Key{}) {
			t.Errorf("got %s, %v, want a page that ended early", switchedWords(done), err)
		}
		down.Store(false)
		h.mustSwitch(h.EnterStandby, broker.Selection{}, "100 changed")
	})
}

func TestActivationOfManyIsNoHerd(t *testing.T) {
	t.Parallel()
	const connections = 1000
	virtually(t, func(t *testing.T, h *harness) {
		var endpoint visitors
		h.provider.Deliver = func(int) error { endpoint.visit(200 * time.Millisecond); return nil }
		keys := h.importHerd("app", connections, 0)
		h.mustSwitch(h.EnterStandby, broker.Selection{Limit: connections}, fmt.Sprint(connections, " changed"))
		time.Sleep(2 * time.Hour)
		h.mustSwitch(h.Activate, broker.Selection{Limit: connections}, fmt.Sprint(connections, " changed"))
		begun := time.Now()
		h.token(keys[connections-1])
		if took := time.Since(begun); took > time.Second {
			t.Errorf("a call waited %v, behind refreshes that no caller waits for", took)
		}
		time.Sleep(connections / 20 * time.Second)
		synctest.Wait()
		h.wantRequests("activated", connections)
		endpoint.want(t, 9, 25) // with a call
	})
}

// What an activation has queued is refreshed although the process ends.
func TestActivationSurvivesARestart(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.importHerd("app", 200, 0)
		h.mustSwitch(h.EnterStandby, broker.Selection{}, "200 changed")
		time.Sleep(2 * time.Hour)
		h.mustSwitch(h.Activate, broker.Selection{}, "200 changed")
		h.restart(broker.Options{
			Open:      func(context.Context) (record.Store, error) { return h.store, nil },
			Transport: h.transport(),
			Journal:   h.journal,
		})
		if got := len(h.provider.Requests()); got >= 200 {
			t.Fatalf("got %d token requests before the restart", got)
		}
		h.use()
		h.waitFor("all refreshes", time.Hour, func() bool { return len(h.provider.Requests()) == 200 })
	})
}
