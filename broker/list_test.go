package broker_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker"
	"github.com/tokenbroker/caddy-token-broker/broker/boltstore"
	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// bigConsumer has manyConnections, one to each connector of listConfig.
const (
	manyConnections = 60
	bigConsumer     = "big"
)

// listConfig returns a configuration with manyConnections connectors.
func listConfig() *record.Config {
	cfg := &record.Config{Connectors: make(map[connector.ID]*record.Connector)}
	for i := range manyConnections {
		def := connector.Definition{
			ID: connector.ID{UnifiedAPI: []string{"crm", "hris"}[i%2], ServiceID: fmt.Sprint("service-", i)}, AuthType: connector.APIKey,
			BaseURL: "https://api.acme.test",
		}
		cfg.Connectors[def.ID] = &record.Connector{Definition: def.WithDefaults()}
	}
	return cfg
}

// fill stores the connections of bigConsumer, and some of other consumers.
func fill(t testing.TB, store record.Store, cfg *record.Config, others int) {
	t.Helper()
	save := func(consumer string, id connector.ID) {
		rec := &record.Record{
			Key:       record.Key{Application: "app", Consumer: consumer, Connector: id},
			CreatedAt: time.Now(), Enabled: true, Generation: 1, Settings: map[string]any{"api_key": "k"},
		}
		if _, err := store.Save(context.Background(), rec, 0); err != nil {
			t.Fatal(err)
		}
	}
	ids := make([]connector.ID, 0, manyConnections)
	for id := range cfg.Connectors {
		ids = append(ids, id)
		save(bigConsumer, id)
	}
	for i := range others {
		// In the order of keys before and after bigConsumer, and with its name as a prefix.
		save(fmt.Sprintf("%s%d", []string{"a", bigConsumer, "z"}[i%3], i), ids[i%len(ids)])
	}
}

func TestListCostsTheSameAmongHundredThousandConnections(t *testing.T) {
	t.Parallel()
	var costs []string
	for _, others := range []int{0, 100_000} {
		var mu sync.Mutex
		ops := make(map[string]int)
		counting := false
		store := &brokertest.MemStore{Fail: func(op string, _ record.Key) error {
			mu.Lock()
			defer mu.Unlock()
			if counting {
				ops[op]++
			}
			return nil
		}}
		cfg := listConfig()
		fill(t, store, cfg, others)
		b := broker.New(broker.Options{Open: func(context.Context) (record.Store, error) { return store, nil }})
		b.Configure(cfg)
		mu.Lock()
		counting = true
		mu.Unlock()
		all, err := b.Connections(t.Context(), "app", bigConsumer, broker.Filter{})
		if err != nil || len(all) != manyConnections {
			t.Fatalf("got %d connections, %v; want %d", len(all), err, manyConnections)
		}
		crm, err := b.Connections(t.Context(), "app", bigConsumer, broker.Filter{UnifiedAPI: "crm"})
		if err != nil || len(crm) != manyConnections/2 {
			t.Fatalf("got %d connections of crm, %v; want %d", len(crm), err, manyConnections/2)
		}
		if err := b.Close(t.Context()); err != nil {
			t.Error(err)
		}
		mu.Lock()
		costs = append(costs, fmt.Sprint(ops))
		mu.Unlock()
	}
	want := fmt.Sprintf("map[list:2 load:%d]", manyConnections+manyConnections/2)
	if costs[0] != want || costs[1] != want {
		t.Errorf("got the store operations %s, want %s each", costs, want)
	}
}

func TestListIsInOrderAndLeavesOutTombstones(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.mustImport("a1", "r1", issued(0))
		h.mustImportBody(h.at(keyed), `{"settings": {"api_key": "k"}}`)
		h.mustImportBody(h.at(long), `{"credentials": {"access_token": "a"}}`)
		if err := h.Delete(t.Context(), h.at(long)); err != nil {
			t.Fatal(err)
		}
		if got, want := h.list(), "crm/acme callable, crm/keyed callable, crm/long available, crm/machines available"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

// list returns the ids and states of the consumer's connections, as they are listed.
func (h *harness) list() string {
	h.t.Helper()
	found, err := h.Connections(h.t.Context(), h.key.Application, h.key.Consumer, broker.Filter{})
	if err != nil {
		h.t.Fatal(err)
	}
	var ids []string
	for _, c := range found {
		ids = append(ids, c.Key.Connector.String()+" "+string(c.State))
	}
	return strings.Join(ids, ", ")
}

func TestListLeavesOutConnectionsWithoutAConnectorBlock(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.mustImportBody(h.at(keyed), `{"settings": {"api_key": "k"}}`)
		h.disconnect(keyed)
		if got, want := h.list(), "crm/acme available, crm/long available, crm/machines available"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

func TestListFailsIfAConnectionCannotBeRead(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.mustImport("a1", "r1", issued(0))
		h.mustImportBody(h.at(keyed), `{"settings": {"api_key": "k"}}`)
		synctest.Wait()
		h.store.Fail = func(op string, key record.Key) error {
			if op == brokertest.OpLoad && key == h.key {
				return record.ErrStoreUnavailable
			}
			return nil
		}
		if _, err := h.Connections(t.Context(), h.key.Application, h.key.Consumer, broker.Filter{}); !errors.Is(err, record.ErrStoreUnavailable) {
			t.Errorf("got %v, want ErrStoreUnavailable rather than part of the list", err)
		}
	})
}

// BenchmarkListAmong lists a consumer's 60 connections in the embedded store, without and
// with connections of other consumers.
func BenchmarkListAmong(b *testing.B) {
	for _, others := range []int{0, 1_000, 100_000} {
		b.Run(fmt.Sprintf("others=%d", others), func(b *testing.B) {
			store, err := boltstore.Open(b.Context(), boltstore.Config{Dir: b.TempDir()})
			if err != nil {
				b.Fatal(err)
			}
			cfg := listConfig()
			fill(b, store, cfg, others)
			br := broker.New(broker.Options{Open: func(context.Context) (record.Store, error) { return store, nil }})
			br.Configure(cfg)
			b.Cleanup(func() { _ = br.Close(context.Background()) })
			for b.Loop() {
				found, err := br.Connections(b.Context(), "app", bigConsumer, broker.Filter{})
				if err != nil || len(found) != manyConnections {
					b.Fatalf("got %d connections, %v", len(found), err)
				}
			}
		})
	}
}

// The loads of a list are made in parallel, and only so many of them at a time.
func TestListLoadsInParallelAndInOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const most = 16
		var mu sync.Mutex
		loads, seen := 0, 0
		slow := false
		store := &brokertest.MemStore{Fail: func(op string, _ record.Key) error {
			if op != brokertest.OpLoad || !slow {
				return nil
			}
			mu.Lock()
			loads++
			seen = max(seen, loads)
			mu.Unlock()
			time.Sleep(10 * time.Millisecond)
			mu.Lock()
			defer mu.Unlock()
			loads--
			return nil
		}}
		cfg := listConfig()
		fill(t, store, cfg, 0)
		b := broker.New(broker.Options{Open: func(context.Context) (record.Store, error) { return store, nil }})
		b.Configure(cfg)
		slow = true
		begun := time.Now()
		list, err := b.Connections(t.Context(), "app", bigConsumer, broker.Filter{})
		if err != nil {
			t.Fatal(err)
		}
		const rounds = (manyConnections + most - 1) / most
		if took, want := time.Since(begun), rounds*10*time.Millisecond; took != want || seen != most {
			t.Errorf("%d loads at a time took %v, want %d and %v", seen, took, most, want)
		}
		sorted := slices.IsSortedFunc(list, func(a, b *record.Connection) int { return a.Key.Connector.Compare(b.Key.Connector) })
		if len(list) != manyConnections || !sorted {
			t.Errorf("%d connections, in order: %t", len(list), sorted)
		}
		if err := b.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
