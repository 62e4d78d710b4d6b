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

// The header and the root page of the last transaction are lost, and with them what it deleted. Its saves still
// tell that there was one.
func TestDeletionOfALostGroupIsNotOverlooked(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	store := openStore(t, dir)
	revs := make(map[string]record.Revision)
	for _, consumer := range []string{"ann", "bob", "cyd"} {
		revs[consumer] = save(t, store, newRecord(consumer, "first"), 0)
	}
	for i := range 40 { // so that the revisions have pages of their own
		save(t, store, newRecord("consumer-"+strconv.Itoa(i), "token"), 0)
	}
	h := hold(t, store)
	h.save(t.Context(), newRecord("ann", "second"), revs["ann"])
	h.save(t.Context(), newRecord("bob", "second"), revs["bob"])
	h.delete("cyd")
	h.finish()
	closeStore(t, store)
	path := filepath.Join(dir, "connections.db")
	whole := readFile(t, path)
	for header := range 2 {
		for page := range len(whole) / pageSize {
			if !isRoot(whole, page) {
				continue
			}
			damaged := bytes.Clone(whole)
			clear(damaged[header*pageSize:][:pageSize])
			clear(damaged[page*pageSize:][:pageSize])
			writeFile(t, path, damaged)
			store, err := boltstore.Open(t.Context(), boltstore.Config{Dir: dir})
			if errors.Is(err, boltstore.ErrDamaged) {
				continue
			} else if err != nil {
				t.Fatal(err)
			}
			_, _, err = store.Load(t.Context(), key("cyd"))
			if check := store.Check(t.Context()); err == nil && check == nil {
				t.Errorf("without header %d and page %d: the deleted connection is back, and Check = nil", header, page)
			}
			closeStore(t, store)
		}
	}
}

func TestDamagedHeaderAfterADeletionOfNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	store := openStore(t, dir)
	rev := save(t, store, newRecord("ann", "token"), 0)
	if err := store.Delete(t.Context(), key("nobody")); err != nil {
		t.Fatal(err)
	}
	closeStore(t, store)
	path := filepath.Join(dir, "connections.db")
	whole := readFile(t, path)
	for page := range 2 {
		damaged := bytes.Clone(whole)
		clear(damaged[page*pageSize:][:pageSize])
		writeFile(t, path, damaged)
		store := openStore(t, dir)
		if _, err := store.Save(t.Context(), newRecord("ann", "token"), rev); err != nil {
			t.Errorf("without page %d: Save = %v", page, err)
		}
		closeStore(t, store)
	}
}
