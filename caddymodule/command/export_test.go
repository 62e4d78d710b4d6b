package command

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/storage"
)

// secretStore makes a store with a connection of each consumer, with tokens, and returns its
// directory.
func secretStore(t *testing.T, consumers ...string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	s := openEmbedded(t, dir)
	for _, consumer := range consumers {
		rec := &record.Record{Key: record.Key{Application: "app", Consumer: consumer}, Enabled: true}
		rec.Key.Connector.UnifiedAPI, rec.Key.Connector.ServiceID = "crm", "hubspot"
		rec.Credentials = &record.Credentials{AccessToken: secret.New("at-" + consumer), RefreshToken: secret.New("rt-" + consumer)}
		if _, err := s.Save(t.Context(), rec, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

// runExport runs the command and returns its messages.
func runExport(t *testing.T, c exportCommand) (string, error) {
	t.Helper()
	var messages bytes.Buffer
	c.messages = &messages
	if c.format == "" {
		c.format = "canonical"
	}
	c.adapter = "caddyfile"
	err := c.run(t.Context(), nil)
	if strings.Contains(messages.String(), "rt-") || err != nil && strings.Contains(err.Error(), "rt-") {
		t.Errorf("a message has a secret: %v\n%s", err, &messages)
	}
	return messages.String(), err
}

const (
	rowOfAnn = `{"app":"app","consumer_id":"ann","unified_api":"crm","service_id":"hubspot","credentials":{"access_token":"at-ann","refresh_token":"rt-ann"}}` + "\n"
	rowOfBob = `{"app":"app","consumer_id":"bob","unified_api":"crm","service_id":"hubspot","credentials":{"access_token":"at-bob","refresh_token":"rt-bob"}}` + "\n"
)

func TestExportWritesAPlaintextFileOnRequest(t *testing.T) {
	t.Parallel()
	dir := secretStore(t, "ann", "bob")
	c := exportCommand{config: configOf(t, dir), plaintext: true, noStandby: true, file: filepath.Join(t.TempDir(), "out")}
	messages, err := runExport(t, c)
	if err != nil || !strings.HasPrefix(messages, "exported 2 connections from the embedded store in "+dir+" to "+c.file+"; they stay active") {
		t.Errorf("got %v\n%s", err, messages)
	}
	if content, err := os.ReadFile(c.file); err != nil || string(content) != rowOfAnn+rowOfBob {
		t.Errorf("got %v\n%s", err, content)
	}
	if got := standby(t, dir); got != "ann;bob;" {
		t.Errorf("the store has %s", got)
	}
	if _, err := runExport(t, c); !errors.Is(err, os.ErrExist) {
		t.Errorf("a second export into the file: %v", err)
	}
	c.force, c.noStandby, c.format, c.app = true, false, "nango", "app"
	if messages, err := runExport(t, c); err != nil || !strings.Contains(messages, "all are in standby, 2 of them were put there now") {
		t.Errorf("got %v\n%s", err, messages)
	}
	if content, err := os.ReadFile(c.file); err != nil || !strings.HasPrefix(string(content), `{"provider_config_key":"hubspot","connection_id":"ann"`) {
		t.Errorf("got %v\n%s", err, content)
	}
	if got := standby(t, dir); got != "ann in standby;bob in standby;" {
		t.Errorf("the store has %s", got)
	}
}

func TestExportEncrypts(t *testing.T) {
	t.Parallel()
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	c := exportCommand{config: configOf(t, secretStore(t, "ann")), recipient: identity.Recipient().String(), file: filepath.Join(t.TempDir(), "out.age")}
	if _, err := runExport(t, c); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(c.file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := age.Decrypt(f, identity)
	if err != nil {
		t.Fatal(err)
	}
	if content, err := io.ReadAll(r); err != nil || string(content) != rowOfAnn {
		t.Errorf("got %v\n%s", err, content)
	}
}

func TestExportRefusesWhatItCannotDo(t *testing.T) {
	t.Parallel()
	dir := secretStore(t, "ann")
	config, file := configOf(t, dir), filepath.Join(t.TempDir(), "out")
	for name, test := range map[string]struct {
		command exportCommand
		want    string
	}{
		"no configuration":     {exportCommand{plaintext: true, file: file}, "--config"},
		"no file":              {exportCommand{config: config, plaintext: true}, "--out"},
		"no choice":            {exportCommand{config: config, file: file}, "choose one of --recipient <age1...>"},
		"two choices":          {exportCommand{config: config, file: file, plaintext: true, recipient: "age1"}, "choose one of"},
		"no key":               {exportCommand{config: config, file: file, recipient: "AGE-SECRET-KEY-1"}, "--recipient: this is not the public key"},
		"no passphrase":        {exportCommand{config: config, file: file, passphraseFile: "/nowhere"}, "--passphrase-file"},
		"an unknown format":    {exportCommand{config: config, file: file, plaintext: true, format: "csv"}, "--format"},
		"nango without an app": {exportCommand{config: config, file: file, plaintext: true, format: "nango"}, "needs --app"},
		"no connector":         {exportCommand{config: config, file: file, plaintext: true, connector: "hubspot"}, "hubspot"},
		"no such connections":  {exportCommand{config: config, file: file, plaintext: true, app: "other"}, "nothing was exported: there is no connection of the application other"},
		"no such connector":    {exportCommand{config: config, file: file, plaintext: true, app: "my-app", connector: "crm/nope"}, "of the application my-app to the connector crm/nope"},
		"no directory":         {exportCommand{config: config, file: "/nowhere/out", plaintext: true}, "--out"},
		"no such Caddyfile":    {exportCommand{config: "/nowhere/Caddyfile", file: file, plaintext: true}, "/nowhere/Caddyfile"},
	} {
		if messages, err := runExport(t, test.command); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v\n%s\nwant %q", name, err, messages, test.want)
		}
	}
	if got := standby(t, dir); got != "ann;" {
		t.Errorf("the store has %s: a refused export changes nothing", got)
	}
	if entries, err := os.ReadDir(filepath.Dir(file)); err != nil || len(entries) > 0 {
		t.Errorf("files were left: %v, %v", entries, err)
	}
}

func TestAnExportThatFailsLeavesNoFile(t *testing.T) {
	t.Parallel()
	dir := secretStore(t, "ann", "bob")
	c := exportCommand{config: configOf(t, dir), plaintext: true, file: filepath.Join(t.TempDir(), "out")}
	if _, err := runExport(t, c); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(c.file)
	if err != nil {
		t.Fatal(err)
	}
	damageRecord(t, filepath.Join(dir, "connections.db"), "bob")
	c.force = true
	if _, err := runExport(t, c); err == nil || !strings.Contains(err.Error(), "nothing was exported") {
		t.Errorf("got %v", err)
	}
	if after, err := os.ReadFile(c.file); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the earlier file was changed: %v", err)
	}
	if entries, err := os.ReadDir(filepath.Dir(c.file)); err != nil || len(entries) != 1 {
		t.Errorf("files were left: %v, %v", entries, err)
	}
}

func TestExportIsASubcommand(t *testing.T) {
	t.Parallel()
	if _, ok := caddycmd.Commands()["export"]; !ok {
		t.Error("the subcommand export is not registered")
	}
}

// serveEmbedded opens a store as a running process does.
func serveEmbedded(t *testing.T, dir string) {
	t.Helper()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	embedded := &storage.Embedded{Dir: dir}
	if err := embedded.Provision(caddy.Context{Context: t.Context()}); err != nil {
		t.Fatal(err)
	}
	s, err := embedded.OpenStore(t.Context(), storage.OpenOptions{Serve: true, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.(io.Closer).Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestCommandsUseAStoreThatIsOpen(t *testing.T) {
	t.Parallel()
	dir, to := secretStore(t, "ann", "bob"), t.TempDir()
	t.Run("", func(t *testing.T) {
		serveEmbedded(t, dir)
		c := exportCommand{config: configOf(t, dir), plaintext: true, file: filepath.Join(t.TempDir(), "out")}
		if messages, err := runExport(t, c); err != nil {
			t.Fatalf("%v\n%s", err, messages)
		}
		if content, err := os.ReadFile(c.file); err != nil || string(content) != rowOfAnn+rowOfBob {
			t.Errorf("got %v\n%s", err, content)
		}
		copying := storeCommand{adapter: "caddyfile", from: c.config, to: configOf(t, to)}
		if out, err := store(t, copying, "copy"); err != nil || !strings.Contains(out, "2 connections copied") {
			t.Errorf("copy: %v\n%s", err, out)
		}
		if out, err := store(t, storeCommand{dir: dir}, "rekey"); err == nil || !strings.Contains(err.Error(), "in use") {
			t.Errorf("rekey: %v\n%s", err, out)
		}
		if err := os.Chmod(filepath.Join(dir, "operator.sock"), 0o666); err != nil {
			t.Fatal(err)
		}
		c.force = true
		if _, err := runExport(t, c); err == nil || !strings.Contains(err.Error(), "they must have 0600 and 0700") {
			t.Errorf("with a socket that others can use: %v", err)
		}
	})
	if old, copied := standby(t, dir), standby(t, to); old != "ann in standby;bob in standby;" || copied != "ann in standby;bob in standby;" {
		t.Errorf("the old store has %s, the new one %s", old, copied)
	}
}
