package boltstore_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"

	"github.com/tokenbroker/caddy-token-broker/broker/boltstore"
)

func TestLostKeyIsReportedAndDestroysNothing(t *testing.T) {
	t.Parallel()
	dir := storeWithRecord(t)
	keyPath := filepath.Join(dir, "key.json")
	backup := readFile(t, keyPath)
	database := readFile(t, filepath.Join(dir, "connections.db"))
	if err := os.Remove(keyPath); err != nil {
		t.Fatal(err)
	}

	wantOpenError(t, dir, boltstore.ErrKeyMissing, keyPath)
	if _, err := os.Stat(keyPath); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("key file after the failed Open: %v, want none", err)
	}
	if !bytes.Equal(readFile(t, filepath.Join(dir, "connections.db")), database) {
		t.Error("the database was changed")
	}

	writeFile(t, keyPath, backup)
	if _, _, err := openStore(t, dir).Load(t.Context(), key("ann")); err != nil {
		t.Errorf("Load with the key restored: %v", err)
	}
}

func TestOpenRefusesTheWrongKey(t *testing.T) {
	t.Parallel()
	for name, wrong := range map[string][]byte{
		"of another store": readFile(t, filepath.Join(storeWithRecord(t), "key.json")),
		"empty":            {},
		"truncated":        []byte(`{"primaryKeyId":1,`),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := storeWithRecord(t)
			keyPath := filepath.Join(dir, "key.json")
			right := readFile(t, keyPath)
			writeFile(t, keyPath, wrong)
			wantOpenError(t, dir, boltstore.ErrKeyMismatch, keyPath)
			if !bytes.Equal(readFile(t, keyPath), wrong) {
				t.Error("the key file was changed")
			}
			writeFile(t, keyPath, right)
			if _, _, err := openStore(t, dir).Load(t.Context(), key("ann")); err != nil {
				t.Errorf("Load with the right key: %v", err)
			}
		})
	}
}

func TestDamagedKeyIsNotReplacedInANewStore(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "key.json"), []byte("{}"))
	wantOpenError(t, dir, boltstore.ErrKeyMismatch, "key.json")
	if got := readFile(t, filepath.Join(dir, "key.json")); string(got) != "{}" {
		t.Errorf("key file = %q, want it unchanged", got)
	}
}

// Otherwise a lost database would look like one without any connections.
func TestKeyWithoutDatabaseIsRefused(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(path string) error{
		"removed": os.Remove,
		"emptied": func(path string) error { return os.Truncate(path, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := storeWithRecord(t)
			path := filepath.Join(dir, "connections.db")
			right := readFile(t, filepath.Join(dir, "key.json"))
			database := readFile(t, path)
			if err := lose(path); err != nil {
				t.Fatal(err)
			}
			wantOpenError(t, dir, boltstore.ErrDatabaseMissing, path)
			if !bytes.Equal(readFile(t, filepath.Join(dir, "key.json")), right) {
				t.Error("the key was replaced")
			}
			if info, err := os.Stat(path); err == nil && info.Size() > 0 {
				t.Error("a new database was begun")
			}
			writeFile(t, path, database)
			if _, _, err := openStore(t, dir).Load(t.Context(), key("ann")); err != nil {
				t.Errorf("Load with the database restored: %v", err)
			}
		})
	}
}

// Even a store without records has a key that was lost, or that someone else has.
func TestLostKeyOfAnEmptyStoreIsReported(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	closeStore(t, openStore(t, dir))
	if err := os.Remove(filepath.Join(dir, "key.json")); err != nil {
		t.Fatal(err)
	}
	wantOpenError(t, dir, boltstore.ErrKeyMissing, "key.json")
}

func TestRotatedKeysetReadsWhatTheOldKeyWrote(t *testing.T) {
	t.Parallel()
	dir := storeWithRecord(t)
	keyPath := filepath.Join(dir, "key.json")
	handle, err := insecurecleartextkeyset.Read(keyset.NewJSONReader(bytes.NewReader(readFile(t, keyPath))))
	if err != nil {
		t.Fatal(err)
	}
	manager := keyset.NewManagerFromHandle(handle)
	id, err := manager.Add(aead.AES256GCMKeyTemplate())
	if err != nil {
		t.Fatal(err)
	}
	if err := manager.SetPrimary(id); err != nil {
		t.Fatal(err)
	}
	if handle, err = manager.Handle(); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := insecurecleartextkeyset.Write(handle, keyset.NewJSONWriter(&b)); err != nil {
		t.Fatal(err)
	}
	writeFile(t, keyPath, b.Bytes())

	store := openStore(t, dir)
	save(t, store, newRecord("bob", "secret"), 0)
	for _, consumer := range []string{"ann", "bob"} {
		if _, _, err := store.Load(t.Context(), key(consumer)); err != nil {
			t.Errorf("Load of %s: %v", consumer, err)
		}
	}
}

// storeWithRecord returns the directory of a closed store that has one record.
func storeWithRecord(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	store := openStore(t, dir)
	save(t, store, newRecord("ann", "secret"), 0)
	closeStore(t, store)
	return dir
}

func wantOpenError(t *testing.T, dir string, want error, text string) {
	t.Helper()
	store, err := boltstore.Open(t.Context(), boltstore.Config{Dir: dir})
	if err == nil {
		closeStore(t, store)
	}
	if !errors.Is(err, want) || !strings.Contains(err.Error(), text) {
		t.Fatalf("Open = %v; want %v that contains %q", err, want, text)
	}
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func writeFile(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestOpenCreatesNoStoreIfItMustExist(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "new")
	config := boltstore.Config{Dir: dir, Existing: true}
	if _, err := boltstore.Open(t.Context(), config); !errors.Is(err, boltstore.ErrDatabaseMissing) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("a directory was created")
	}
	config.Dir = storeWithRecord(t)
	s, err := boltstore.Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
