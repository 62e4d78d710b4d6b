package boltstore_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/tokenbroker/caddy-token-broker/broker/boltstore"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// A result is what a change returned.
type result struct {
	rev record.Revision
	err error
}

// A held store lets no transaction begin, so that changes wait. If release is nil, it is not held.
type held struct {
	t       *testing.T
	store   *boltstore.Store
	release func()
	changes sync.WaitGroup
	added   int
}

// hold holds a store, and adds a change whose group has begun: those that are added later form the next groups.
func hold(t *testing.T, store *boltstore.Store) *held {
	t.Helper()
	h := &held{t: t, store: store, release: store.Hold()}
	h.await(func() bool { return !store.Writing() })
	h.changes.Go(func() { _ = store.Delete(context.Background(), key("not there")) })
	h.await(func() bool { return store.Writing() && store.Waiting() == 0 })
	return h
}

// save adds a change, after those that were added before.
func (h *held) save(ctx context.Context, rec *record.Record, rev record.Revision) *result {
	return h.add(func() (record.Revision, error) { return h.store.Save(ctx, rec, rev) })
}

func (h *held) delete(consumer string) *result {
	return h.add(func() (record.Revision, error) { return 0, h.store.Delete(context.Background(), key(consumer)) })
}

// tooLarge makes a change that is refused before it waits.
func (h *held) tooLarge() *result {
	rev, err := h.store.Save(context.Background(), newRecord(strings.Repeat("x", bolt.MaxKeySize), "lost"), 0)
	return &result{rev, err}
}

func (h *held) add(change func() (record.Revision, error)) *result {
	h.t.Helper()
	r := new(result)
	if h.release == nil {
		r.rev, r.err = change()
		return r
	}
	h.changes.Go(func() { r.rev, r.err = change() })
	h.added++
	h.await(func() bool { return h.store.Waiting() == h.added })
	return r
}

// await waits for what another goroutine does.
func (h *held) await(done func() bool) {
	h.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			h.release()
			h.t.Fatal("the change is not in the queue")
		}
	}
}

// finish lets transactions begin, and waits for all changes.
func (h *held) finish() {
	if h.release != nil {
		h.release()
	}
	h.changes.Wait()
}

// counted counts a store's transactions.
func counted(store *boltstore.Store) (transactions func() int) {
	n := 0
	store.OnTransact(func(update func(func(*bolt.Tx) error) error, do func(*bolt.Tx) error) error {
		n++
		return update(do)
	})
	return func() int { return n }
}

// failing returns a transaction whose sync fails, before or after the header is written. The first one, that of
// hold, succeeds.
func failing(commits bool) func(update func(func(*bolt.Tx) error) error, do func(*bolt.Tx) error) error {
	first := true
	return func(update func(func(*bolt.Tx) error) error, do func(*bolt.Tx) error) error {
		if first {
			first = false
			return update(do)
		}
		err := update(func(tx *bolt.Tx) error {
			if err := do(tx); err != nil || commits {
				return err
			}
			return syscall.EIO
		})
		return errors.Join(err, syscall.EIO)
	}
}
