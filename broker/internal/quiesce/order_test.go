package quiesce_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/quiesce"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

func keyOf(application, consumer, service string) record.Key {
	return record.Key{Application: application, Consumer: consumer, Connector: connector.ID{UnifiedAPI: "crm", ServiceID: service}}
}

func keys(n int, last error) func(func(record.Key, error) bool) {
	return func(yield func(record.Key, error) bool) {
		for i := range n {
			if !yield(keyOf("app", strconv.Itoa(i), "acme"), nil) {
				return
			}
		}
		if last != nil {
			yield(record.Key{}, last)
		}
	}
}

func TestResultsComeInTheOrderOfTheKeys(t *testing.T) {
	t.Parallel()
	const n = 1000 // several batches, the last one not full
	work := func(_ context.Context, key record.Key) (string, error) { return key.Consumer, nil }
	next := 0
	err := quiesce.InOrder(t.Context(), keys(n, nil), work, func(consumer string) error {
		if consumer != strconv.Itoa(next) {
			return fmt.Errorf("got %s, want %d", consumer, next)
		}
		next++
		return nil
	})
	if err != nil || next != n {
		t.Errorf("%d results, %v; want %d", next, err, n)
	}
}

func TestTheFirstErrorEndsTheWork(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	fine := func(context.Context, record.Key) (int, error) { return 0, nil }
	for name, err := range map[string]error{
		"of the keys": quiesce.InOrder(t.Context(), keys(300, broken), fine, nil),
		"of the work": quiesce.InOrder(t.Context(), keys(300, nil), func(_ context.Context, key record.Key) (int, error) {
			if key.Consumer == "299" {
				return 0, broken
			}
			return 0, nil
		}, nil),
		"of the writer": quiesce.InOrder(t.Context(), keys(300, nil), fine, func(int) error { return broken }),
	} {
		if !errors.Is(err, broken) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestASelectionHasNoRecordsOfTheBroker(t *testing.T) {
	t.Parallel()
	var s brokertest.MemStore
	for _, key := range []record.Key{keyOf("app", "ann", "acme"), keyOf("app", "ann", "other"), keyOf("b", "bob", "acme"), keyOf(record.OwnApplication, "sweep", "acme")} {
		if _, err := s.Save(t.Context(), &record.Record{Key: key}, 0); err != nil {
			t.Fatal(err)
		}
	}
	acme := connector.ID{UnifiedAPI: "crm", ServiceID: "acme"}
	for _, test := range []struct {
		selection quiesce.Selection
		want      []string
	}{
		{quiesce.Selection{}, []string{"app/ann/crm/acme", "app/ann/crm/other", "b/bob/crm/acme"}},
		{quiesce.Selection{Application: "app"}, []string{"app/ann/crm/acme", "app/ann/crm/other"}},
		{quiesce.Selection{Connector: acme}, []string{"app/ann/crm/acme", "b/bob/crm/acme"}},
		{quiesce.Selection{Application: "b", Connector: acme}, []string{"b/bob/crm/acme"}},
	} {
		var got []string
		for key, err := range test.selection.Keys(t.Context(), &s) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, key.String())
		}
		if slices.Sort(got); !slices.Equal(got, test.want) {
			t.Errorf("%+v: got %v, want %v", test.selection, got, test.want)
		}
	}
}

func TestHoldTriesAgainAfterAConflict(t *testing.T) {
	t.Parallel()
	key := keyOf("app", "ann", "acme")
	var s brokertest.MemStore
	rev, err := s.Save(t.Context(), &record.Record{Key: key}, 0)
	if err != nil {
		t.Fatal(err)
	}
	saves := 0
	s.Fail = func(op string, _ record.Key) error {
		if op != brokertest.OpSave {
			return nil
		}
		if saves++; saves == 1 { // another process is faster
			_, err := s.Save(t.Context(), &record.Record{Key: key, Generation: 2}, rev)
			return err
		}
		return nil
	}
	if changed, err := quiesce.New(&s).Hold(t.Context(), key, nil); err != nil || !changed {
		t.Fatal(changed, err)
	}
	if rec, _, err := s.Load(t.Context(), key); err != nil || !rec.Standby || rec.Generation != 2 {
		t.Errorf("got standby %t, generation %d, %v", rec.Standby, rec.Generation, err)
	}
}
