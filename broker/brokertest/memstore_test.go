package brokertest_test

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

var key = record.Key{Application: "app", Consumer: "ann", Connector: connector.ID{UnifiedAPI: "crm", ServiceID: "hubspot"}}

func TestMemStoreKeepsTheContract(t *testing.T) {
	t.Parallel()
	brokertest.TestStore(t, func(*testing.T) record.Store { return new(brokertest.MemStore) })
}

func TestFailPreventsTheOperation(t *testing.T) {
	t.Parallel()
	fail := true
	store := &brokertest.MemStore{Fail: func(op string, _ record.Key) error {
		if op == brokertest.OpSave && fail {
			return record.ErrConflict
		}
		return nil
	}}
	_, err := store.Save(context.Background(), &record.Record{Key: key}, 0)
	if !errors.Is(err, record.ErrConflict) {
		t.Errorf("Save = %v, want ErrConflict", err)
	}
	fail = false
	if _, _, err := store.Load(context.Background(), key); !errors.Is(err, record.ErrNotFound) {
		t.Errorf("Load = %v, want ErrNotFound", err)
	}
}

func TestFailAfterLosesOnlyTheResponse(t *testing.T) {
	t.Parallel()
	store := &brokertest.MemStore{FailAfter: func(op string, _ record.Key) error {
		if op == brokertest.OpSave {
			return record.ErrStoreUnavailable
		}
		return nil
	}}
	rev, err := store.Save(context.Background(), &record.Record{Key: key, Generation: 4}, 0)
	if !errors.Is(err, record.ErrStoreUnavailable) || rev != 0 {
		t.Errorf("Save = %d, %v; want 0, ErrStoreUnavailable", rev, err)
	}
	rec, _, err := store.Load(context.Background(), key)
	if err != nil || rec.Generation != 4 {
		t.Errorf("Load = %v, %v; want generation 4", rec, err)
	}
}

func TestHooksMayCallTheStore(t *testing.T) {
	t.Parallel()
	store := new(brokertest.MemStore)
	first := true
	store.Fail = func(op string, _ record.Key) error {
		if op == brokertest.OpSave && first {
			first = false
			_, err := store.Save(context.Background(), &record.Record{Key: key, Generation: 1}, 0)
			return err
		}
		return nil
	}
	if _, err := store.Save(context.Background(), &record.Record{Key: key, Generation: 2}, 0); !errors.Is(err, record.ErrConflict) {
		t.Errorf("Save = %v, want ErrConflict", err)
	}
}

func TestContentsIncludesEarlierRevisionsUntilTheyAreDestroyed(t *testing.T) {
	t.Parallel()
	store := new(brokertest.MemStore)
	rec := &record.Record{Key: key, Credentials: &record.Credentials{AccessToken: secret.New("canary-1")}}
	rev, err := store.Save(context.Background(), rec, 0)
	if err != nil {
		t.Fatal(err)
	}
	rec.Credentials.AccessToken = secret.New("canary-2")
	if rev, err = store.Save(context.Background(), rec, rev); err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(store.Contents(), []byte("canary-1")) {
		t.Error("the contents lack the earlier revision, which was not destroyed")
	}
	if err := store.DestroyEarlier(context.Background(), key, rev); err != nil {
		t.Fatal(err)
	}
	if got := store.Contents(); bytes.Contains(got, []byte("canary-1")) || !bytes.Contains(got, []byte("canary-2")) {
		t.Errorf("contents after DestroyEarlier: %s", got)
	}
}
