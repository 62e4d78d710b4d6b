package command

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/storage"
)

// store runs the command.
func store(t *testing.T, c storeCommand, name string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	c.out = &out
	err := map[string]func(*storeCommand, context.Context) error{
		"check": (*storeCommand).check, "rebuild": (*storeCommand).rebuild, "rekey": (*storeCommand).rekey, "copy": (*storeCommand).copy,
	}[name](&c, t.Context())
	return out.String(), err
}

// embeddedStore makes a store with one connection of each consumer, and returns its directory.
func embeddedStore(t *testing.T, consumers ...string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	s := openEmbedded(t, dir)
	for _, consumer := range consumers {
		rec := &record.Record{Key: record.Key{Application: "app", Consumer: consumer}}
		rec.Key.Connector.UnifiedAPI, rec.Key.Connector.ServiceID = "crm", "hubspot"
		if _, err := s.Save(t.Context(), rec, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

type closableStore interface {
	record.Store
	io.Closer
}

func openEmbedded(t *testing.T, dir string) closableStore {
	t.Helper()
	embedded := &storage.Embedded{Dir: dir}
	if err := embedded.Provision(caddy.Context{Context: t.Context()}); err != nil {
		t.Fatal(err)
	}
	s, err := embedded.OpenStore(t.Context(), storage.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return s.(closableStore)
}

func TestStoreCheckFindsDamage(t *testing.T) {
	t.Parallel()
	dir := embeddedStore(t, "ann", "bob")
	database := filepath.Join(dir, "connections.db")
	config := filepath.Join(t.TempDir(), "Caddyfile")
	if err := os.WriteFile(config, []byte("{\ntoken_broker {\nstorage embedded "+dir+"\n}\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []storeCommand{{dir: dir}, {config: config, adapter: "caddyfile"}} {
		out, err := store(t, c, "check")
		if err != nil || out != database+": 2 connections can be read\n" {
			t.Errorf("check of a sound store: %v\n%s", err, out)
		}
	}
	damageRecord(t, database, "bob")
	out, err := store(t, storeCommand{dir: dir}, "check")
	if err == nil || !strings.Contains(err.Error(), "store rebuild") {
		t.Errorf("check of a damaged store: %v; want an error with the remedy", err)
	}
	const want = ": 1 connections can be read\ndamage:\n  the record of app/bob/crm/hubspot does not decrypt with its revision\nlost:\n  app/bob/crm/hubspot\n"
	if out != database+want {
		t.Errorf("got\n%s\nwant\n%s", out, want)
	}
}

func TestStoreRebuildSavesTheRest(t *testing.T) {
	t.Parallel()
	dir := embeddedStore(t, "ann", "bob")
	database := filepath.Join(dir, "connections.db")
	damageRecord(t, database, "bob")
	damaged, err := os.ReadFile(database)
	if err != nil {
		t.Fatal(err)
	}
	rebuilt := filepath.Join(t.TempDir(), "new.db")
	out, err := store(t, storeCommand{dir: dir, file: rebuilt}, "rebuild")
	if err != nil || !strings.Contains(out, "lost:\n  app/bob/crm/hubspot\n1 connections were saved into "+rebuilt+", and 1 are lost.\n") {
		t.Fatalf("rebuild: %v\n%s", err, out)
	}
	if now, err := os.ReadFile(database); err != nil || !bytes.Equal(now, damaged) {
		t.Errorf("the damaged database was changed: %v", err)
	}
	if _, err := store(t, storeCommand{dir: dir, file: rebuilt}, "rebuild"); err == nil || !strings.Contains(err.Error(), "exists") {
		t.Errorf("a second rebuild into the file: %v, want an error", err)
	}
	if err := os.Rename(rebuilt, database); err != nil {
		t.Fatal(err)
	}
	if out, err := store(t, storeCommand{dir: dir}, "check"); err != nil || !strings.Contains(out, "1 connections can be read") {
		t.Errorf("check of the rebuilt store: %v\n%s", err, out)
	}
}

func TestStoreCommandRefusesWhatItCannotDo(t *testing.T) {
	t.Parallel()
	vault := filepath.Join(t.TempDir(), "Caddyfile")
	if err := os.WriteFile(vault, []byte("{\ntoken_broker {\nstorage vault {\naddress https://vault.test\nauth token {env.NONE}\n}\n}\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	empty := t.TempDir()
	for name, test := range map[string]struct {
		command storeCommand
		word    string
		want    string
	}{
		"both flags":       {storeCommand{dir: empty, config: vault}, "check", "exclude each other"},
		"Vault":            {storeCommand{config: vault, adapter: "caddyfile"}, "check", "the storage is vault"},
		"no configuration": {storeCommand{config: "/nowhere/Caddyfile"}, "check", "/nowhere/Caddyfile"},
		"no store":         {storeCommand{dir: empty}, "check", "key.json"},
		"no output":        {storeCommand{dir: embeddedStore(t, "ann")}, "rebuild", "--out"},
	} {
		if out, err := store(t, test.command, test.word); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v\n%s\nwant %q", name, err, out, test.want)
		}
	}
}

func TestRebuildRefusesAStoreInUse(t *testing.T) {
	t.Parallel()
	dir := embeddedStore(t, "ann")
	defer openEmbedded(t, dir).Close()
	out := filepath.Join(t.TempDir(), "new.db")
	if _, err := store(t, storeCommand{dir: dir, file: out}, "rebuild"); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("rebuild of a store in use: %v, want an error", err)
	}
	if _, err := os.Stat(out); err == nil {
		t.Error("a file was created")
	}
}

func TestStoreHasSubcommandsWithFlagsAndHelpOfTheirOwn(t *testing.T) {
	t.Parallel()
	run := func(args ...string) (string, error) {
		cmd := &cobra.Command{Use: "store", SilenceUsage: true}
		caddycmd.Commands()["store"].CobraFunc(cmd)
		var out bytes.Buffer
		cmd.SetOut(&out)
		cmd.SetErr(&out)
		cmd.SetArgs(args)
		err := cmd.ExecuteContext(t.Context())
		return out.String(), err
	}
	for word, flags := range map[string][]string{
		"check": {"--config", "--dir"}, "rebuild": {"--dir", "--out"}, "rekey": {"--dir", "--key-file"}, "copy": {"--from", "--replace"},
	} {
		help, err := run(word, "--help")
		if err != nil || !strings.Contains(help, "store "+word+" ") {
			t.Errorf("help of %s: %v\n%s", word, err, help)
		}
		for _, flag := range flags {
			if !strings.Contains(help, flag+" ") {
				t.Errorf("help of %s lacks %s:\n%s", word, flag, help)
			}
		}
		if strings.Contains(help, "--from ") != (word == "copy") {
			t.Errorf("help of %s has the flags of another subcommand:\n%s", word, help)
		}
	}
	for want, args := range map[string][]string{
		"needs one of the words check, rebuild, rekey, copy": {},
		"got mend":                      {"mend"},
		"it takes flags only; got more": {"check", "more"},
		"--from and --to":               {"copy"},
	} {
		if out, err := run(args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: got %v\n%s\nwant %q", args, err, out, want)
		}
	}
}

// damageRecord damages every copy of a consumer's record in a database.
func damageRecord(t *testing.T, database, consumer string) {
	t.Helper()
	b, err := os.ReadFile(database)
	if err != nil {
		t.Fatal(err)
	}
	name := []byte(consumer + "\x00\x01crm\x00\x01hubspot\x00\x01") // the record follows it
	for at := 0; ; {
		i := bytes.Index(b[at:], name)
		if i < 0 {
			break
		}
		at += i + len(name)
		copy(b[at+40:], "damaged")
	}
	if err := os.WriteFile(database, b, 0o600); err != nil {
		t.Fatal(err)
	}
}
