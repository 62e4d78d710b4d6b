package boltstore_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/boltstore"
	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/keyfile"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// rawKey returns a key as an operator makes it.
func rawKey(fill byte) secret.String {
	return secret.New(base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{fill}, 32)))
}

// fill makes a store with records, and returns their revisions by consumer.
func fill(t *testing.T, config boltstore.Config, n int) map[string]record.Revision {
	t.Helper()
	store, err := boltstore.Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	revisions := make(map[string]record.Revision)
	for i := range n {
		consumer := fmt.Sprintf("consumer-%d", i)
		rev := save(t, store, newRecord(consumer, "first of "+consumer), 0)
		if i%2 == 0 {
			rev = save(t, store, newRecord(consumer, "token of "+consumer), rev)
		}
		revisions[consumer] = rev
	}
	closeStore(t, store)
	return revisions
}

// wantRecords checks that a store has just these records, can be written, and has no damage.
func wantRecords(t *testing.T, config boltstore.Config, revisions map[string]record.Revision) {
	t.Helper()
	store, err := boltstore.Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	var last record.Revision
	for key, err := range store.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		rec, rev, err := store.Load(t.Context(), key)
		if err != nil || rev != revisions[key.Consumer] || !strings.HasSuffix(rec.Credentials.AccessToken.Reveal(), key.Consumer) {
			t.Fatalf("%s: revision %d, %v; want %d", key, rev, err, revisions[key.Consumer])
		}
		last = max(last, rev)
	}
	if err := store.Check(t.Context()); err != nil {
		t.Error(err)
	}
	if len(revisions) > 0 {
		rev := save(t, store, newRecord("consumer-0", "token of consumer-0"), revisions["consumer-0"])
		if rev <= last {
			t.Errorf("the next revision is %d, after %d", rev, last)
		}
		revisions["consumer-0"] = rev
	}
	closeStore(t, store)
	if r, err := boltstore.Check(t.Context(), config); err != nil || len(r.Damage) > 0 || r.Readable != len(revisions) {
		t.Errorf("check: %+v, %v; want %d records", r, err, len(revisions))
	}
}

func wantMismatch(t *testing.T, config boltstore.Config) {
	t.Helper()
	store, err := boltstore.Open(t.Context(), config)
	if err == nil {
		closeStore(t, store)
	}
	if !errors.Is(err, boltstore.ErrKeyMismatch) && !errors.Is(err, boltstore.ErrKeyMissing) {
		t.Errorf("with the old key: %v, want ErrKeyMismatch", err)
	}
}

func TestRekeyChangesTheKeyAndNothingElse(t *testing.T) {
	t.Parallel()
	elsewhere := func(t *testing.T) string { return filepath.Join(t.TempDir(), "store.key") }
	for name, test := range map[string]struct {
		from, to func(*testing.T, *boltstore.Config)
	}{
		"a new key in the same file": {func(*testing.T, *boltstore.Config) {}, func(*testing.T, *boltstore.Config) {}},
		"another file": {
			func(*testing.T, *boltstore.Config) {},
			func(t *testing.T, c *boltstore.Config) { c.KeyFile = elsewhere(t) },
		},
		"from a file to a given key": {
			func(t *testing.T, c *boltstore.Config) { c.KeyFile = elsewhere(t) },
			func(_ *testing.T, c *boltstore.Config) { c.Key = rawKey(1) },
		},
		"from a given key to another": {
			func(_ *testing.T, c *boltstore.Config) { c.Key = rawKey(1) },
			func(_ *testing.T, c *boltstore.Config) { c.Key = rawKey(2) },
		},
		"from a given key to a file": {
			func(_ *testing.T, c *boltstore.Config) { c.Key = rawKey(1) },
			func(*testing.T, *boltstore.Config) {},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			from := boltstore.Config{Dir: t.TempDir()}
			to := from
			test.from(t, &from)
			revisions := fill(t, from, 50)
			if name == "a new key in the same file" {
				to = from
			}
			test.to(t, &to)
			keyPath := from.KeyFile
			if keyPath == "" {
				keyPath = filepath.Join(from.Dir, "key.json")
			}
			oldKey, _ := os.ReadFile(keyPath) // if there is one
			n, err := boltstore.Rekey(t.Context(), from, to)
			if err != nil || n != 50 {
				t.Fatalf("got %d records, %v", n, err)
			}
			wantRecords(t, to, revisions)
			if oldKey != nil {
				from.Key, from.KeyFile = secret.New(string(oldKey)), ""
			}
			wantMismatch(t, from)
			if keyfile.IsRotating(keyPath) {
				t.Error("the old key is still in the file")
			}
			if n, err := boltstore.Rekey(t.Context(), from, to); (err != nil || n != 50) && oldKey == nil {
				t.Errorf("a second call: %d, %v", n, err)
			}
			wantRecords(t, to, revisions)
		})
	}
}

// The states between the steps of a change of key: the store opens, and the change can be ended.
func TestRekeyGoesOnAfterACrashBetweenItsSteps(t *testing.T) {
	t.Parallel()
	for name, crash := range map[string]func(t *testing.T, dir, keyPath string, config boltstore.Config){
		"after the new key was made": func(*testing.T, string, string, boltstore.Config) {},
		"while the records are encrypted": func(t *testing.T, dir, _ string, _ boltstore.Config) {
			writeFile(t, filepath.Join(dir, "connections.db.rekey"), []byte("half a database"))
		},
		"before the old key is destroyed": func(t *testing.T, _, keyPath string, config boltstore.Config) {
			both := readFile(t, keyPath)
			if _, err := boltstore.Rekey(t.Context(), config, config); err != nil {
				t.Fatal(err)
			}
			writeFile(t, keyPath, both)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := boltstore.Config{Dir: t.TempDir()}
			revisions := fill(t, config, 20)
			keyPath := filepath.Join(config.Dir, "key.json")
			oldKey := readFile(t, keyPath)
			if _, err := keyfile.BeginRotation(keyPath); err != nil {
				t.Fatal(err)
			}
			crash(t, config.Dir, keyPath, config)
			wantRecords(t, config, revisions)
			if n, err := boltstore.Rekey(t.Context(), config, config); err != nil || n != 20 {
				t.Fatalf("got %d records, %v", n, err)
			}
			wantRecords(t, config, revisions)
			wantMismatch(t, boltstore.Config{Dir: config.Dir, Key: secret.New(string(oldKey))})
			if _, err := os.Stat(filepath.Join(config.Dir, "connections.db.rekey")); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("a file was left: %v", err)
			}
		})
	}
}

// After a crash before the old key file is removed, the store opens with the new key alone.
func TestRekeyToAnotherPlaceGoesOnAfterACrash(t *testing.T) {
	t.Parallel()
	from := boltstore.Config{Dir: t.TempDir()}
	to := boltstore.Config{Dir: from.Dir, Key: rawKey(1)}
	revisions := fill(t, from, 20)
	keyPath := filepath.Join(from.Dir, "key.json")
	oldKey := readFile(t, keyPath)
	if _, err := boltstore.Rekey(t.Context(), from, to); err != nil {
		t.Fatal(err)
	}
	writeFile(t, keyPath, oldKey)
	wantMismatch(t, from)
	if n, err := boltstore.Rekey(t.Context(), from, to); err != nil || n != 20 {
		t.Fatalf("got %d records, %v", n, err)
	}
	wantRecords(t, to, revisions)
	if _, err := os.Stat(keyPath); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the old key is still there: %v", err)
	}
}

func TestRekeyRefusesWhatItCannotDo(t *testing.T) {
	t.Parallel()
	config := boltstore.Config{Dir: storeWithRecord(t), LockTimeout: time.Millisecond}
	given := boltstore.Config{Dir: config.Dir, Key: rawKey(1)}
	inUse := boltstore.Config{Dir: t.TempDir()}
	openStore(t, inUse.Dir)
	for name, test := range map[string]struct {
		from, to boltstore.Config
		want     error
		text     string
	}{
		"a store in use":      {inUse, inUse, boltstore.ErrLocked, "in use"},
		"no store":            {boltstore.Config{Dir: t.TempDir()}, config, boltstore.ErrDatabaseMissing, "connections.db"},
		"the wrong key":       {given, boltstore.Config{Dir: config.Dir, Key: rawKey(2)}, boltstore.ErrKeyMismatch, "the configured key"},
		"the same key":        {given, given, nil, "is the old one"},
		"no key":              {config, boltstore.Config{Dir: config.Dir, Key: secret.New("SECRET")}, nil, "32 bytes in base64"},
		"two keys":            {config, boltstore.Config{Dir: config.Dir, Key: rawKey(1), KeyFile: "key"}, nil, "configure one of them"},
		"no directory to key": {config, boltstore.Config{Dir: config.Dir, KeyFile: "/nowhere/key"}, os.ErrNotExist, "/nowhere"},
	} {
		_, err := boltstore.Rekey(t.Context(), test.from, test.to)
		if err == nil || test.want != nil && !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.text) || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: got %v, want %v and %q", name, err, test.want, test.text)
		}
	}
	closeStore(t, openStore(t, config.Dir))
}

// rekeyOr returns what a child process runs: a change of keys, or another function.
func rekeyOr(other func([]string) error) func([]string) error {
	return func(args []string) error {
		if args[0] == "rekey" {
			return rekeyForEver(args[1], args[2:])
		}
		return other(args)
	}
}

// awaitLine waits for the child's next line, which its own deadline bounds.
func awaitLine(t *testing.T, c *brokertest.Child) {
	t.Helper()
	if _, err := c.Stdout.ReadString('\n'); err != nil {
		t.Fatalf("the other process: %v", err)
	}
}

// rekeyForEver changes the key of a store over and over, and prints a line before each change.
func rekeyForEver(dir string, keys []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	config := boltstore.Config{Dir: dir}
	next := config
	for i := 0; ; i++ {
		fmt.Println(i)
		if len(keys) > 0 {
			next.Key = secret.New(keys[i%len(keys)])
		}
		if _, err := boltstore.Rekey(ctx, config, next); err != nil {
			return err
		}
		config = next
	}
}

// A process that changes keys is killed at any moment: the store always opens with a key that is
// left, and the next change ends what was begun.
func TestRekeySurvivesKills(t *testing.T) {
	t.Parallel()
	config := boltstore.Config{Dir: t.TempDir()}
	revisions := fill(t, config, 100)
	for range 25 {
		other := brokertest.StartChild(t, "rekey", config.Dir)
		awaitLine(t, other)
		time.Sleep(rand.N(60 * time.Millisecond)) //nolint:forbidigo // the moment is the test's input
		other.Kill(t)
		wantRecords(t, config, revisions)
	}
	if _, err := boltstore.Rekey(t.Context(), config, config); err != nil {
		t.Fatal(err)
	}
	wantRecords(t, config, revisions)
	if keyfile.IsRotating(filepath.Join(config.Dir, "key.json")) {
		t.Error("an old key is still in the file")
	}
}

// The same with given keys: the store opens with one of the two.
func TestRekeyOfGivenKeysSurvivesKills(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	keys := []secret.String{rawKey(1), rawKey(2)}
	revisions := fill(t, boltstore.Config{Dir: dir}, 100)
	for range 15 {
		current := boltstore.Config{Dir: dir}
		for _, key := range keys {
			if given := (boltstore.Config{Dir: dir, Key: key}); opens(given) {
				current = given
			}
		}
		if !opens(current) {
			t.Fatal("the store opens with none of the keys")
		}
		wantRecords(t, current, revisions)
		if !current.Key.IsZero() {
			if _, err := boltstore.Rekey(t.Context(), current, boltstore.Config{Dir: dir}); err != nil {
				t.Fatal(err)
			}
		}
		other := brokertest.StartChild(t, "rekey", dir, keys[0].Reveal(), keys[1].Reveal())
		awaitLine(t, other)
		time.Sleep(rand.N(60 * time.Millisecond)) //nolint:forbidigo // the moment is the test's input
		other.Kill(t)
	}
}

func opens(config boltstore.Config) bool {
	store, err := boltstore.Open(context.Background(), config)
	if err != nil {
		return false
	}
	return store.Close() == nil
}
