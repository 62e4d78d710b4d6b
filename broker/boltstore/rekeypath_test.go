package boltstore_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/boltstore"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// It would be destroyed as the old key, and nothing could read the store again.
func TestRekeyRefusesTheOldKeyAsTheNewOne(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(t *testing.T, keyPath string, next *boltstore.Config) error{
		"hard link": func(_ *testing.T, keyPath string, next *boltstore.Config) error {
			return os.Link(keyPath, next.KeyFile)
		},
		"copy": func(t *testing.T, keyPath string, next *boltstore.Config) error {
			return os.WriteFile(next.KeyFile, readFile(t, keyPath), 0o600)
		},
		"given copy": func(t *testing.T, keyPath string, next *boltstore.Config) error {
			next.Key, next.KeyFile = secret.New(string(readFile(t, keyPath))), ""
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := boltstore.Config{Dir: t.TempDir()}
			revisions := fill(t, config, 3)
			next := boltstore.Config{Dir: config.Dir, KeyFile: filepath.Join(t.TempDir(), "store.key")}
			if err := prepare(t, filepath.Join(config.Dir, "key.json"), &next); err != nil {
				t.Skip("it cannot be made here: ", err)
			}
			if _, err := boltstore.Rekey(t.Context(), config, next); err == nil {
				t.Error("the old key is accepted as the new one")
			}
			wantRecords(t, config, revisions)
		})
	}
}

func TestRekeyFollowsASymbolicLinkToTheKey(t *testing.T) {
	t.Parallel()
	config := boltstore.Config{Dir: t.TempDir()}
	revisions := fill(t, config, 3)
	keyPath := filepath.Join(config.Dir, "key.json")
	linked := boltstore.Config{Dir: config.Dir, KeyFile: filepath.Join(t.TempDir(), "store.key")}
	if err := os.Symlink(keyPath, linked.KeyFile); err != nil {
		t.Skip("links cannot be made here: ", err)
	}
	for _, configs := range [][2]boltstore.Config{{config, linked}, {linked, config}, {linked, linked}} {
		before := readFile(t, keyPath)
		if n, err := boltstore.Rekey(t.Context(), configs[0], configs[1]); err != nil || n != 3 {
			t.Fatalf("got %d records, %v", n, err)
		}
		if bytes.Equal(before, readFile(t, keyPath)) {
			t.Error("the file that the link names has the old key")
		}
		wantRecords(t, config, revisions)
		wantRecords(t, linked, revisions)
	}
}
