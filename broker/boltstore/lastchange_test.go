package boltstore_test

import (
	"bytes"
	"path/filepath"
	"testing"

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
