package command

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/tokenbroker/caddy-token-broker/broker/journal"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// configOf writes a configuration with an embedded store in dir, and a journal beside it.
func configOf(t *testing.T, dir string) (path string) {
	t.Helper()
	return configWith(t, "storage embedded "+dir+"\njournal "+dir+"/journal")
}

func configWith(t *testing.T, options string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "Caddyfile")
	if err := os.WriteFile(path, []byte("{\ntoken_broker {\n"+options+"\n}\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// standby returns whether the connections in a store are in standby, in a line.
func standby(t *testing.T, dir string) string {
	t.Helper()
	s := openEmbedded(t, dir)
	defer s.Close()
	var b strings.Builder
	for key, err := range s.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		rec, _, err := s.Load(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		b.WriteString(key.Consumer)
		if rec.Standby {
			b.WriteString(" in standby")
		}
		b.WriteString(";")
	}
	return b.String()
}

func TestStoreCopyCopiesAndSaysSo(t *testing.T) {
	t.Parallel()
	from, to := embeddedStore(t, "ann", "bob"), t.TempDir()
	c := storeCommand{adapter: "caddyfile", from: configOf(t, from), to: configOf(t, to)}
	for _, want := range []string{
		"2 connections copied, 0 there already, 0 deleted ones; 2 put into standby in the old store\n",
		"0 connections copied, 2 there already, 0 deleted ones; 0 put into standby in the old store\n",
	} {
		out, err := store(t, c, "copy")
		if err != nil || !strings.Contains(out, want) || !strings.Contains(out, "has all 2 records") {
			t.Fatalf("got %v\n%s\nwant %s", err, out, want)
		}
	}
	if old, copied := standby(t, from), standby(t, to); old != "ann in standby;bob in standby;" || copied != "ann;bob;" {
		t.Errorf("the old store has %s, the new one %s", old, copied)
	}
}

func TestStoreCopyOfNothingFails(t *testing.T) {
	t.Parallel()
	missing, to := filepath.Join(t.TempDir(), "missing"), t.TempDir()
	for name, test := range map[string]struct{ from, want string }{
		"no store":       {missing, "the database of the embedded store is missing"},
		"an empty store": {embeddedStore(t), "there is nothing to copy in the embedded store in "},
	} {
		c := storeCommand{adapter: "caddyfile", from: configOf(t, test.from), to: configOf(t, to)}
		if out, err := store(t, c, "copy"); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v\n%s\nwant %q", name, err, out, test.want)
		}
	}
	if _, err := os.Stat(missing); !os.IsNotExist(err) {
		t.Errorf("the store to copy from was created: %v", err)
	}
}

func TestStoreCopyKeepsWhatIsThere(t *testing.T) {
	t.Parallel()
	from, to := embeddedStore(t, "ann", "bob"), embeddedStore(t, "bob")
	s := openEmbedded(t, to)
	key := record.Key{Application: "app", Consumer: "bob"}
	key.Connector.UnifiedAPI, key.Connector.ServiceID = "crm", "hubspot"
	rec, rev, err := s.Load(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	rec.Enabled = true
	if _, err := s.Save(t.Context(), rec, rev); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	c := storeCommand{adapter: "caddyfile", from: configOf(t, from), to: configOf(t, to)}
	out, err := store(t, c, "copy")
	if err == nil || !strings.Contains(out, "(--replace replaces them):\n  app/bob/crm/hubspot\n") {
		t.Errorf("got %v\n%s", err, out)
	}
	c.replace = true
	if out, err := store(t, c, "copy"); err != nil {
		t.Errorf("with --replace: %v\n%s", err, out)
	}
}

func TestStoreCopyRefusesWhatItCannotDo(t *testing.T) {
	t.Parallel()
	dir := embeddedStore(t, "ann")
	inUse := embeddedStore(t, "ann")
	defer openEmbedded(t, inUse).Close()
	config, empty := configOf(t, dir), configOf(t, t.TempDir())
	for name, test := range map[string]struct{ from, to, want string }{
		"no source":        {"", config, "--from and --to"},
		"no target":        {config, "", "--from and --to"},
		"the same store":   {config, configOf(t, dir), "name the same store"},
		"a store in use":   {configOf(t, inUse), empty, "in use"},
		"no configuration": {"/nowhere/Caddyfile", empty, "/nowhere/Caddyfile"},
		"no Vault token":   {config, configWith(t, "storage vault {\naddress https://vault.test\nauth token {env.NONE}\n}"), "NONE"},
	} {
		out, err := store(t, storeCommand{adapter: "caddyfile", from: test.from, to: test.to}, "copy")
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v\n%s\nwant %q", name, err, out, test.want)
		}
	}
	if got := standby(t, dir); got != "ann;" {
		t.Errorf("the store has %s: a refused copy changes nothing", got)
	}
}

// A refreshed token that only the journal has must not be left behind.
func TestStoreCopyRefusesAJournalWithEntries(t *testing.T) {
	t.Parallel()
	dir := embeddedStore(t, "ann")
	config := configOf(t, dir)
	leaveJournalEntry(t, config)
	_, err := store(t, storeCommand{adapter: "caddyfile", from: config, to: configOf(t, t.TempDir())}, "copy")
	if err == nil || !strings.Contains(err.Error(), "has 1 token responses that the store has not taken yet: start the broker") {
		t.Errorf("got %v", err)
	}
}

// leaveJournalEntry leaves an entry in the journal of a configuration, as a process does that ends
// while its store is unavailable. It returns the directory.
func leaveJournalEntry(t *testing.T, config string) (dir string) {
	t.Helper()
	app, err := loadApp(config, "caddyfile")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	defer cancel()
	if _, err := app.ResolveStorage(ctx); err != nil {
		t.Fatal(err)
	}
	j := journal.Open(journal.Config{Dir: app.JournalDir()})
	if err := j.Put(t.Context(), "entry", []byte("{}")); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	return app.JournalDir()
}

// emptyJournal removes the entry.
func emptyJournal(t *testing.T, dir string) {
	t.Helper()
	j := journal.Open(journal.Config{Dir: dir})
	for entry, err := range j.Entries(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if err := j.Remove(t.Context(), entry.ID); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}
