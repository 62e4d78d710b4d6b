package command

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestStoreRekeyMakesANewKey(t *testing.T) {
	t.Parallel()
	dir := embeddedStore(t, "ann", "bob")
	config := configOf(t, dir)
	old, err := os.ReadFile(filepath.Join(dir, "key.json"))
	if err != nil {
		t.Fatal(err)
	}
	out, err := store(t, storeCommand{adapter: "caddyfile", config: config}, "rekey")
	if err != nil || !strings.HasPrefix(out, "2 records are encrypted with the new key.") || strings.Contains(out, "say in its configuration") {
		t.Errorf("got %v\n%s", err, out)
	}
	if now, err := os.ReadFile(filepath.Join(dir, "key.json")); err != nil || string(now) == string(old) {
		t.Errorf("the key is the old one: %v", err)
	}
	if got := standby(t, dir); got != "ann;bob;" {
		t.Errorf("the store has %s", got)
	}
}

// The key leaves the data directory, and changes there.
func TestStoreRekeyMovesTheKey(t *testing.T) {
	t.Parallel()
	dir, keys := embeddedStore(t, "ann"), t.TempDir()
	keyFile, secretFile := filepath.Join(keys, "store.key"), filepath.Join(keys, "secret")
	out, err := store(t, storeCommand{dir: dir, keyFile: keyFile}, "rekey")
	if err != nil || !strings.Contains(out, "say in its configuration where the new key is") {
		t.Fatalf("got %v\n%s", err, out)
	}
	if _, err := os.Stat(filepath.Join(dir, "key.json")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the old key is still there: %v", err)
	}
	inFile := configWith(t, "storage embedded "+dir+" {\nkey_file "+keyFile+"\n}")
	if out, err := store(t, storeCommand{adapter: "caddyfile", config: inFile}, "check"); err != nil {
		t.Errorf("check: %v\n%s", err, out)
	}
	if err := os.WriteFile(secretFile, []byte("MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := store(t, storeCommand{adapter: "caddyfile", config: inFile, key: "{file." + secretFile + "}"}, "rekey"); err != nil {
		t.Fatalf("got %v\n%s", err, out)
	}
	given := configWith(t, "storage embedded "+dir+" {\nkey {file."+secretFile+"}\n}")
	if out, err := store(t, storeCommand{adapter: "caddyfile", config: given}, "check"); err != nil || !strings.Contains(out, "1 connections can be read") {
		t.Errorf("check: %v\n%s", err, out)
	}
	if _, err := store(t, storeCommand{adapter: "caddyfile", config: given}, "rekey"); err == nil || !strings.Contains(err.Error(), "--key or --key-file") {
		t.Errorf("without a new key: %v", err)
	}
}

func TestStoreRekeyRefusesWhatItCannotDo(t *testing.T) {
	t.Parallel()
	dir := embeddedStore(t, "ann")
	inUse := embeddedStore(t, "ann")
	defer openEmbedded(t, inUse).Close()
	for name, test := range map[string]struct {
		command storeCommand
		want    string
	}{
		"a store in use": {storeCommand{dir: inUse}, "in use"},
		"no store":       {storeCommand{dir: t.TempDir()}, "there is no embedded store in"},
		"two keys":       {storeCommand{dir: dir, key: "k", keyFile: "f"}, "exclude each other"},
		"no secret":      {storeCommand{dir: dir, key: "{env.NONE}"}, "{env.NONE} has no value"},
		"no key":         {storeCommand{dir: dir, key: "secret"}, "32 bytes in base64"},
	} {
		if out, err := store(t, test.command, "rekey"); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v\n%s\nwant %q", name, err, out, test.want)
		}
	}
}

func TestStoreRekeyRenewsTheKeyOfTheJournal(t *testing.T) {
	t.Parallel()
	dir := embeddedStore(t, "ann")
	config := configOf(t, dir)
	journalOf := leaveJournalEntry(t, config)
	if _, err := store(t, storeCommand{adapter: "caddyfile", config: config}, "rekey"); err == nil || !strings.Contains(err.Error(), "1 token responses") {
		t.Errorf("with an entry: %v", err)
	}
	emptyJournal(t, journalOf)
	key := filepath.Join(journalOf, "key.json")
	if _, err := os.Stat(key); err != nil {
		t.Fatal(err)
	}
	if out, err := store(t, storeCommand{adapter: "caddyfile", config: config}, "rekey"); err != nil {
		t.Errorf("got %v\n%s", err, out)
	}
	if _, err := os.Stat(key); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the journal's old key is still there: %v", err)
	}
}
