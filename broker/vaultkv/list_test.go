package vaultkv_test

import (
	"fmt"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/vaultkv"
)

// Listing one consumer takes one request, however many others there are.
func TestListOfAConsumerCostsOneRequest(t *testing.T) {
	t.Parallel()
	relay := newRelay(t)
	config := vaultkv.Config{Address: relay.URL, Prefix: prefix()}
	store := newStore(t, config)
	const connections = 60
	var saves errgroup.Group
	saves.SetLimit(8)
	for i := range connections {
		rec := newRecord("ann", 1)
		rec.Key.Connector.ServiceID = fmt.Sprint("service-", i)
		saves.Go(func() error { _, err := store.Save(t.Context(), rec, 0); return err })
	}
	if err := saves.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, others := range []int{0, 500} {
		for i := range others {
			rec := newRecord(fmt.Sprintf("ann-%d", i), 1)
			saves.Go(func() error { _, err := store.Save(t.Context(), rec, 0); return err })
		}
		if err := saves.Wait(); err != nil {
			t.Fatal(err)
		}
		before := relay.requests.Load()
		var keys []record.Key
		for key, err := range store.List(t.Context(), "app", "ann") {
			if err != nil {
				t.Fatal(err)
			}
			keys = append(keys, key)
		}
		if got := relay.requests.Load() - before; got != 1 || len(keys) != connections {
			t.Errorf("among %d others: %d requests for %d keys, want 1 for %d", others, got, len(keys), connections)
		}
	}
}

// Listing from a position on makes no request for the applications and consumers before it.
func TestListAfterCostsNothingForWhatComesBefore(t *testing.T) {
	t.Parallel()
	relay := newRelay(t)
	store := newStore(t, vaultkv.Config{Address: relay.URL, Prefix: prefix()})
	const applications, consumers = 4, 20
	var saves errgroup.Group
	saves.SetLimit(8)
	for app := range applications {
		for consumer := range consumers {
			rec := newRecord(fmt.Sprintf("consumer-%02d", consumer), 1)
			rec.Key.Application = fmt.Sprint("app-", app)
			saves.Go(func() error { _, err := store.Save(t.Context(), rec, 0); return err })
		}
	}
	if err := saves.Wait(); err != nil {
		t.Fatal(err)
	}
	after := key("consumer-14")
	after.Application = "app-2"
	before := relay.requests.Load()
	listed := 0
	for _, err := range store.ListAfter(t.Context(), after) {
		if err != nil {
			t.Fatal(err)
		}
		listed++
	}
	// The root, two applications, the consumer of the position, and one request for each key.
	want := int64(3 + 1 + listed)
	if got := relay.requests.Load() - before; listed != 5+consumers || got != want {
		t.Errorf("%d requests for %d keys, want %d for %d", got, listed, want, 5+consumers)
	}
}
