package boltstore_test

import (
	"bytes"
	"errors"
	"path/filepath"
	"strconv"
	"testing"

	bolt "go.etcd.io/bbolt"

	"github.com/tokenbroker/caddy-token-broker/broker/boltstore"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// The last change is on the disk even if the copy of the header is lost that it wrote.
func TestDamagedHeaderDoesNotLoseTheLastChange(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	store := openStore(t, dir)
	rev := save(t, store, newRecord("ann", "first"), 0)
	for _, token := range []string{"second", "third"} { // once for each copy
		rev = save(t, store, newRecord("ann", token), rev)
		bob := save(t, store, newRecord("bob-"+token, token), 0)
		closeStore(t, store)
		path := filepath.Join(dir, "connections.db")
		whole := readFile(t, path)
		for page := range 2 {
			damaged := bytes.Clone(whole)
			clear(damaged[page*pageSize:][:pageSize])
			writeFile(t, path, damaged)
			store = openStore(t, dir)
			for consumer, want := range map[string]record.Revision{"ann": rev, "bob-" + token: bob} {
				if _, got, err := store.Load(t.Context(), key(consumer)); err != nil || got != want {
					t.Errorf("without page %d %s = %d, %v; want %d", page, consumer, got, err, want)
				}
			}
			if err := store.Check(t.Context()); err != nil {
				t.Errorf("Check = %v, want nil: nothing is lost", err)
			}
			closeStore(t, store)
		}
		writeFile(t, path, whole)
		store = openStore(t, dir)
	}
}

// The changes of a group are on the disk even if the copy of the header is lost that it wrote.
func TestDamagedHeaderDoesNotLoseTheLastGroup(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	store := openStore(t, dir)
	want := map[string]record.Revision{ // 0 is deleted
		"ann": save(t, store, newRecord("ann", "first"), 0), "bob": save(t, store, newRecord("bob", "first"), 0),
		"cyd": save(t, store, newRecord("cyd", "first"), 0), "dan": save(t, store, newRecord("dan", "first"), 0),
	}
	for _, token := range []string{"second", "third"} { // once for each copy
		h := hold(t, store)
		saved := map[string]*result{
			"ann": h.save(t.Context(), newRecord("ann", token), want["ann"]),
			"bob": h.save(t.Context(), newRecord("bob", token), want["bob"]),
			"new": h.save(t.Context(), newRecord("new", token), want["new"]),
		}
		h.delete("cyd")
		h.finish()
		for consumer, r := range saved {
			if r.err != nil {
				t.Fatal(r.err)
			}
			want[consumer] = r.rev
		}
		want["cyd"] = 0
		closeStore(t, store)
		path := filepath.Join(dir, "connections.db")
		whole := readFile(t, path)
		for page := range 2 {
			damaged := bytes.Clone(whole)
			clear(damaged[page*pageSize:][:pageSize])
			writeFile(t, path, damaged)
			store = openStore(t, dir)
			for consumer, want := range want {
				_, got, err := store.Load(t.Context(), key(consumer))
				if got != want || errors.Is(err, record.ErrNotFound) != (want == 0) || want != 0 && err != nil {
					t.Errorf("without page %d %s = %d, %v; want %d", page, consumer, got, err, want)
				}
			}
			if err := store.Check(t.Context()); err != nil {
				t.Errorf("Check = %v, want nil: nothing is lost", err)
			}
			closeStore(t, store)
		}
		writeFile(t, path, whole)
		store = openStore(t, dir)
		want["cyd"] = save(t, store, newRecord("cyd", "again"), 0)
	}
}

// So much fits into the root page with the stamp, beside the buckets.
func TestStampOfALargeGroupIsInTheRootPage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	store := openStore(t, dir)
	h := hold(t, store)
	for i := range boltstore.MaxGroup {
		h.save(t.Context(), newRecord(strconv.Itoa(i), "token"), 0)
	}
	h.finish()
	closeStore(t, store)
	edit(t, dir, func(tx *bolt.Tx) error {
		if stats := tx.Bucket([]byte("meta")).Stats(); stats.InlineBucketN != 1 {
			t.Errorf("the bucket with the stamp of %d changes is not in the root page: %+v", boltstore.MaxGroup, stats)
		}
		return nil
	})
}
