package boltstore_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	bolt "go.etcd.io/bbolt"

	"github.com/tokenbroker/caddy-token-broker/broker/boltstore"
	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

func TestStoreKeepsTheContract(t *testing.T) {
	t.Parallel()
	brokertest.TestStore(t, func(t *testing.T) record.Store { return openStore(t, t.TempDir()) })
}

func TestRecordsAndRevisionsSurviveReopening(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	store := openStore(t, dir)
	kept := save(t, store, newRecord("ann", "secret"), 0)
	dead := save(t, store, newRecord("bob", "secret"), 0)
	if err := store.Delete(t.Context(), key("bob")); err != nil {
		t.Fatal(err)
	}
	closeStore(t, store)

	store = openStore(t, dir)
	rec, rev, err := store.Load(t.Context(), key("ann"))
	if err != nil || rev != kept || rec.Credentials.AccessToken.Reveal() != "secret" {
		t.Errorf("Load = %v, %d, %v; want the record saved as %d", rec, rev, err, kept)
	}
	if again := save(t, store, newRecord("bob", "secret"), 0); again <= dead {
		t.Errorf("revision of the record saved after Delete = %d, want more than %d", again, dead)
	}
}

func TestOnlyTheOwnerCanReadTheFiles(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "new", "nested", "dir")
	store := openStore(t, dir)
	save(t, store, newRecord("ann", "secret"), 0)
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("mode of the directory: %v, %v; want 0700", info.Mode(), err)
	}
	for _, name := range []string{"connections.db", "key.json", "holder"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v; want mode 0600", name, info, err)
		}
	}
}

func TestFilesContainNoSecretsInClearText(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	store := openStore(t, dir)
	const canary = "canary-d9f1c3"
	rec := newRecord("ann", canary)
	rec.Settings = map[string]any{"api_key": canary}
	save(t, store, rec, 0)
	closeStore(t, store)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if bytes.Contains(b, []byte(canary)) {
			t.Errorf("%s contains a secret in clear text", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestRecordMovedToAnotherConnectionIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	store := openStore(t, dir)
	save(t, store, newRecord("ann", "hers"), 0)
	save(t, store, newRecord("bob", "his"), 0)
	closeStore(t, store)
	edit(t, dir, func(tx *bolt.Tx) error {
		for _, name := range []string{"connections", "revisions"} {
			bucket := tx.Bucket([]byte(name))
			ann, value := bucket.Cursor().First()
			bob, _ := bucket.Cursor().Last()
			if bytes.Equal(ann, bob) {
				t.Fatal("the test does not find its records in the database")
			}
			if err := bucket.Put(bob, bytes.Clone(value)); err != nil {
				return err
			}
		}
		return nil
	})
	wantDamaged(t, openStore(t, dir), "bob")
}

func TestRecordReplacedByAnEarlierRevisionIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	store := openStore(t, dir)
	rev := save(t, store, newRecord("ann", "old"), 0)
	closeStore(t, store)
	var name, old []byte
	edit(t, dir, func(tx *bolt.Tx) error {
		k, v := tx.Bucket([]byte("connections")).Cursor().First()
		name, old = bytes.Clone(k), bytes.Clone(v)
		return stamp(tx)
	})
	store = openStore(t, dir)
	save(t, store, newRecord("ann", "new"), rev)
	closeStore(t, store)
	edit(t, dir, func(tx *bolt.Tx) error {
		return errors.Join(stamp(tx), tx.Bucket([]byte("connections")).Put(name, old))
	})
	wantDamaged(t, openStore(t, dir), "ann")
}

func TestClosedStoreIsUnavailable(t *testing.T) {
	t.Parallel()
	store := openStore(t, t.TempDir())
	closeStore(t, store)
	closeStore(t, store)
	_, _, loadErr := store.Load(t.Context(), key("ann"))
	_, saveErr := store.Save(t.Context(), newRecord("ann", "secret"), 0)
	for op, err := range map[string]error{"Load": loadErr, "Save": saveErr, "Delete": store.Delete(t.Context(), key("ann"))} {
		if !errors.Is(err, record.ErrStoreUnavailable) {
			t.Errorf("%s after Close = %v, want ErrStoreUnavailable", op, err)
		}
	}
	for _, err := range store.List(t.Context(), "", "") {
		if !errors.Is(err, record.ErrStoreUnavailable) {
			t.Errorf("List after Close = %v, want ErrStoreUnavailable", err)
		}
	}
}

func TestStoreIsNotShared(t *testing.T) {
	t.Parallel()
	var store record.SharedStore = openStore(t, t.TempDir())
	if store.Shared() {
		t.Error("Shared() = true, want false")
	}
}

func openStore(t *testing.T, dir string) *boltstore.Store {
	t.Helper()
	store, err := boltstore.Open(context.Background(), boltstore.Config{Dir: dir})
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() { _ = store.Close() })
	return store
}

func closeStore(t *testing.T, store *boltstore.Store) {
	t.Helper()
	if err := store.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
}

func save(t *testing.T, store record.Store, rec *record.Record, rev record.Revision) record.Revision {
	t.Helper()
	saved, err := store.Save(context.Background(), rec, rev)
	if err != nil {
		t.Fatalf("Save: %v", err)
	}
	return saved
}

// edit changes the database while no store has it open.
func edit(t *testing.T, dir string, change func(*bolt.Tx) error) {
	t.Helper()
	db, err := bolt.Open(filepath.Join(dir, "connections.db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Update(change), db.Close()); err != nil {
		t.Fatal(err)
	}
}

// stamp makes a transaction one that the store takes for its own: a change without a trace is refused.
func stamp(tx *bolt.Tx) error {
	meta := tx.Bucket([]byte("meta"))
	state := bytes.Clone(meta.Get([]byte("state")))
	binary.BigEndian.PutUint64(state, uint64(tx.ID()))
	return meta.Put([]byte("state"), state)
}

func wantDamaged(t *testing.T, store record.Store, consumer string) {
	t.Helper()
	rec, _, err := store.Load(t.Context(), key(consumer))
	if !errors.Is(err, record.ErrStoreUnavailable) || errors.Is(err, record.ErrNotFound) {
		t.Errorf("Load = %v, %v; want ErrStoreUnavailable, since it does not decrypt", rec, err)
	}
}

func key(consumer string) record.Key {
	return record.Key{
		Application: "app", Consumer: consumer,
		Connector: connector.ID{UnifiedAPI: "crm", ServiceID: "hubspot"},
	}
}

func newRecord(consumer, token string) *record.Record {
	return &record.Record{Key: key(consumer), Credentials: &record.Credentials{AccessToken: secret.New(token)}}
}
