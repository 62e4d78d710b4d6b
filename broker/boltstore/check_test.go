package boltstore_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/boltstore"
)

func TestCheckAndRebuildNeedBothFiles(t *testing.T) {
	t.Parallel()
	other := readFile(t, filepath.Join(storeWithRecord(t), "key.json"))
	for name, test := range map[string]struct {
		change func(dir string) error
		want   error
	}{
		"no key":      {func(dir string) error { return os.Remove(filepath.Join(dir, "key.json")) }, boltstore.ErrKeyMissing},
		"no database": {func(dir string) error { return os.Remove(filepath.Join(dir, "connections.db")) }, boltstore.ErrDatabaseMissing},
		"another key": {func(dir string) error { return os.WriteFile(filepath.Join(dir, "key.json"), other, 0o600) }, boltstore.ErrKeyMismatch},
	} {
		dir := storeWithRecord(t)
		if err := test.change(dir); err != nil {
			t.Fatal(err)
		}
		if r, err := boltstore.Check(t.Context(), boltstore.Config{Dir: dir}); !errors.Is(err, test.want) {
			t.Errorf("%s: Check = %+v, %v; want %v", name, r, err, test.want)
		}
		path := filepath.Join(t.TempDir(), "rebuilt.db")
		if r, err := boltstore.Rebuild(t.Context(), boltstore.Config{Dir: dir}, path); !errors.Is(err, test.want) {
			t.Errorf("%s: Rebuild = %+v, %v; want %v", name, r, err, test.want)
		}
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s: Rebuild left a file", name)
		}
	}
}

// The value that tells a wrong key is not needed as long as a record decrypts.
func TestDamagedCheckValueCostsNothing(t *testing.T) {
	t.Parallel()
	dir := storeWithRecord(t)
	b := readFile(t, filepath.Join(dir, "connections.db"))
	name := []byte("check") // the value follows it
	for at := bytes.Index(b, name); at >= 0; at = bytes.Index(b, name) {
		overwrite(t, dir, at+len(name)+20, []byte("damaged"))
		clear(b[:at+len(name)])
	}
	if r, err := boltstore.Check(t.Context(), boltstore.Config{Dir: dir}); err != nil || len(r.Damage) != 1 || r.Readable != 1 {
		t.Errorf("Check = %+v, %v; want the damage, and one connection", r, err)
	}
	store := openStore(t, dir)
	if _, _, err := store.Load(t.Context(), key("ann")); err != nil {
		t.Errorf("Load: %v", err)
	}
	closeStore(t, store)
	if r, err := boltstore.Check(t.Context(), boltstore.Config{Dir: dir}); err != nil || len(r.Damage) > 0 {
		t.Errorf("Check after it was opened = %+v, %v; want no damage", r, err)
	}
}
