package broker_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// Only a thief has a use for what a token endpoint answers for a deleted connection.
func TestAnswerForADeletedConnectionIsRevoked(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		e := h.revoking()
		release := h.holdAnswers("r1")
		h.mustImport("a1", "r1", issued(2*time.Hour))
		synctest.Wait()
		if err := h.Delete(t.Context(), h.key); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		close(release)
		synctest.Wait()
		if got, want := e.revoked(), "r1 refresh_token, refresh-1 refresh_token"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if rec := h.record(h.key); !rec.IsTombstone() || rec.Credentials != nil {
			t.Error("the connection is back")
		}
	})
}

// The same while the broker closes.
func TestAnswerForADeletedConnectionIsRevokedWhenAllEnds(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		e := h.revoking()
		release := h.holdAnswers("r1")
		h.mustImport("a1", "r1", issued(2*time.Hour))
		synctest.Wait()
		if err := h.Delete(t.Context(), h.key); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		closed := make(chan error, 1)
		go func() { closed <- h.Close(context.Background()) }()
		synctest.Wait()
		close(release)
		if err := <-closed; err != nil {
			t.Error(err)
		}
		if got, want := e.revoked(), "r1 refresh_token, refresh-1 refresh_token"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		h.start()
	})
}

// The same while the store is down: the answer waits, and finds a tombstone.
func TestAnswerThatWaitedForTheStoreIsRevokedWithItsConnection(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		e := h.revoking()
		var down atomic.Bool
		h.store.Fail = func(op string, _ record.Key) error {
			if down.Load() && op == brokertest.OpSave {
				return record.ErrStoreUnavailable
			}
			return nil
		}
		h.provider.Grant("r1")
		h.provider.Deliver = func(int) error { down.Store(true); return nil }
		h.mustImport("a1", "r1", issued(2*time.Hour))
		synctest.Wait()
		if err := h.Delete(t.Context(), h.key); !errors.Is(err, record.ErrStoreUnavailable) {
			t.Errorf("got %v, want ErrStoreUnavailable", err)
		}
		rec := h.record(h.key)
		down.Store(false)
		// Another replica reaches the store first.
		h.restore(&record.Record{Key: h.key, CreatedAt: rec.CreatedAt, Deleted: time.Now(), Generation: rec.Generation + 1})
		time.Sleep(time.Minute)
		if got, want := e.revoked(), "refresh-1 refresh_token"; got != want {
			t.Errorf("got %s, want %s once", got, want)
		}
		if _, err := h.Source(h.key).Token(t.Context()); !errors.Is(err, record.ErrConnectionNotFound) {
			t.Errorf("got %v, want ErrConnectionNotFound", err)
		}
		if n := h.journal.Len(); n != 0 {
			t.Errorf("the journal has %d entries, want none", n)
		}
	})
}

// An answer that the store will never take blocks writes to its connection, but not its
// deletion.
func TestConnectionWhoseAnswerCannotBeSavedCanBeDeleted(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		e := h.revoking()
		var refusing atomic.Bool
		h.store.Fail = func(op string, _ record.Key) error {
			if op == brokertest.OpSave && refusing.Load() {
				return record.ErrRecordTooLarge
			}
			return nil
		}
		h.provider.Grant("r1")
		h.provider.Deliver = func(int) error { refusing.Store(true); return nil }
		h.mustImport("a1", "r1", issued(2*time.Hour))
		synctest.Wait()
		time.Sleep(time.Second) // the answer was tried again; the next try is later
		refusing.Store(false)   // a tombstone is not too large
		if err := h.Delete(t.Context(), h.key); err != nil {
			t.Fatalf("got %v, want no error", err)
		}
		time.Sleep(time.Minute)
		if rec := h.record(h.key); !rec.IsTombstone() {
			t.Error("the connection is not deleted")
		}
		if got, want := e.revoked(), "r1 refresh_token, refresh-1 refresh_token"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

func TestConsumerIsDeletedThoughSomeDeletionsFail(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.mustImport("a1", "r1", issued(0))
		h.mustImportBody(h.at(keyed), `{"settings": {"api_key": "k"}}`)
		h.mustImportBody(h.at(long), `{"credentials": {"access_token": "a2", `+issued(0)+`}}`)
		synctest.Wait()
		h.disconnect(long) // its connection stays
		h.store.Fail = func(op string, key record.Key) error {
			if op == brokertest.OpSave && key.Connector == acme {
				return record.ErrStoreUnavailable
			}
			return nil
		}
		if err := h.DeleteConsumer(t.Context(), h.key.Application, h.key.Consumer); !errors.Is(err, record.ErrStoreUnavailable) {
			t.Errorf("got %v, want ErrStoreUnavailable", err)
		}
		for id, gone := range map[connector.ID]bool{acme: false, keyed: true, long: true} {
			if got := h.record(h.at(id)).IsTombstone(); got != gone {
				t.Errorf("%s: got gone %v, want %v", id, got, gone)
			}
		}
		synctest.Wait()
		h.store.Fail = nil
		for range 2 {
			if err := h.DeleteConsumer(t.Context(), h.key.Application, h.key.Consumer); err != nil {
				t.Errorf("repeated: got %v, want no error", err)
			}
		}
		if !h.record(h.key).IsTombstone() {
			t.Error("the last connection is not deleted")
		}
		time.Sleep(48 * time.Hour) // the sweep has removed the tombstones
		if err := h.DeleteConsumer(t.Context(), h.key.Application, h.key.Consumer); !errors.Is(err, record.ErrConsumerNotFound) {
			t.Errorf("got %v, want ErrConsumerNotFound", err)
		}
	})
}

func TestConnectionOfAConnectorWithoutABlockCanBeDeleted(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.mustImport("a1", "r1", issued(0))
		h.disconnect(acme)
		if err := h.Delete(t.Context(), h.key); err != nil {
			t.Errorf("got %v, want no error", err)
		}
		if err := h.Delete(t.Context(), h.key); !errors.Is(err, record.ErrConnectorNotFound) {
			t.Errorf("again: got %v, want ErrConnectorNotFound", err)
		}
	})
}

func TestDeletedConnectionIsGoneAndStaysGone(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		if err := h.Delete(t.Context(), h.key); !errors.Is(err, record.ErrConnectionNotFound) {
			t.Errorf("before the import: got %v, want ErrConnectionNotFound", err)
		}
		h.mustImport("a1-"+brokertest.AccessCanary, "r1-"+brokertest.RefreshCanary, issued(0))
		if err := h.Delete(t.Context(), h.key); err != nil {
			t.Fatal(err)
		}
		if err := h.Delete(t.Context(), h.key); !errors.Is(err, record.ErrConnectionNotFound) {
			t.Errorf("again: got %v, want ErrConnectionNotFound", err)
		}
		if _, err := h.Connection(t.Context(), h.key); !errors.Is(err, record.ErrConnectionNotFound) {
			t.Errorf("got %v, want ErrConnectionNotFound", err)
		}
		if _, err := h.Source(h.key).Token(t.Context()); !errors.Is(err, record.ErrConnectionNotFound) {
			t.Errorf("got %v, want ErrConnectionNotFound", err)
		}
		synctest.Wait()
		brokertest.NoCanary(t, "the store, earlier revisions included,", h.store.Contents())
	})
}

func TestConnectionCanBeImportedAgainAfterItsDeletion(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.mustImport("a1", "r1", issued(0))
		if err := h.Delete(t.Context(), h.key); err != nil {
			t.Fatal(err)
		}
		h.mustImport("a2", "r2", issued(0))
		if got := h.token(h.key); got != "a2" {
			t.Errorf("got %q, want a2", got)
		}
		if rec := h.record(h.key); rec.Generation != 3 {
			t.Errorf("got generation %d, want 3: the count goes on", rec.Generation)
		}
	})
}

func TestAnswerForADeletedConnectionIsDropped(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		release := h.holdAnswers("r1")
		h.mustImport("a1", "r1", issued(2*time.Hour))
		synctest.Wait()
		if err := h.Delete(t.Context(), h.key); err != nil {
			t.Fatal(err)
		}
		close(release)
		synctest.Wait()
		if rec := h.record(h.key); !rec.IsTombstone() || rec.Credentials != nil {
			t.Error("the connection is back")
		}
	})
}
