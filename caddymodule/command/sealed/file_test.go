package sealed_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/tokenbroker/caddy-token-broker/caddymodule/command/sealed"
)

func create(t *testing.T, path string, replace bool, recipients ...age.Recipient) *sealed.File {
	t.Helper()
	f, err := sealed.Create(path, replace, recipients...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(f, "secret\n"); err != nil {
		t.Fatal(err)
	}
	return f
}

// wantFiles checks that a directory has just the files of those names.
func wantFiles(t *testing.T, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != len(names) {
		t.Fatalf("the directory has %v, %v; want %v", entries, err, names)
	}
	for i, name := range names {
		if entries[i].Name() != name {
			t.Errorf("the directory has %v, want %v", entries, names)
		}
	}
}

func TestAFileHasItsNameOnlyWhenItIsComplete(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "out")
	f := create(t, path, false)
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file has its name before it is complete: %v", err)
	}
	if err := f.Commit(); err != nil {
		t.Fatal(err)
	}
	if content, err := os.ReadFile(path); err != nil || string(content) != "secret\n" {
		t.Errorf("got %q, %v", content, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 && runtime.GOOS != "windows" {
		t.Errorf("mode %v, %v; want 0600", info.Mode(), err)
	}
	wantFiles(t, dir, "out")
}

func TestADiscardedFileIsGone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := create(t, filepath.Join(dir, "out"), false).Discard(); err != nil {
		t.Fatal(err)
	}
	wantFiles(t, dir)
}

func TestAFileIsReplacedOnlyOnRequest(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "out")
	late := create(t, path, false)
	if err := os.WriteFile(path, []byte("other"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := late.Commit(); !errors.Is(err, os.ErrExist) || !strings.Contains(err.Error(), "--force") {
		t.Errorf("a file that appeared meanwhile: %v, want os.ErrExist", err)
	}
	if _, err := sealed.Create(path, false); !errors.Is(err, os.ErrExist) {
		t.Errorf("a file that exists: %v, want os.ErrExist", err)
	}
	if content, err := os.ReadFile(path); err != nil || string(content) != "other" {
		t.Errorf("got %q, %v", content, err)
	}
	wantFiles(t, dir, "out")
	if err := create(t, path, true).Commit(); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 && runtime.GOOS != "windows" {
		t.Errorf("the mode of the replaced file is %v, %v; want 0600", info.Mode(), err)
	}
	wantFiles(t, dir, "out")
}

func TestADirectoryIsNotReplaced(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, replace := range []bool{false, true} {
		if _, err := sealed.Create(dir, replace); err == nil || !strings.Contains(err.Error(), dir+" is a directory") {
			t.Errorf("replace %v: got %v", replace, err)
		}
	}
}

func TestAFileIsEncrypted(t *testing.T) {
	t.Parallel()
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	recipient, err := sealed.ParseRecipient(identity.Recipient().String())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	passphrase := filepath.Join(dir, "passphrase")
	if err := os.WriteFile(passphrase, []byte("correct horse\r\nanother line\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	scrypt, err := sealed.ReadPassphrase(passphrase)
	if err != nil {
		t.Fatal(err)
	}
	scrypt.(*age.ScryptRecipient).SetWorkFactor(4) // or it takes seconds
	known, err := age.NewScryptIdentity("correct horse")
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		to   age.Recipient
		with age.Identity
	}{"recipient": {recipient, identity}, "passphrase-of-a-file": {scrypt, known}} {
		path := filepath.Join(dir, name)
		if err := create(t, path, false, test.to).Commit(); err != nil {
			t.Fatal(err)
		}
		content, err := os.ReadFile(path)
		if err != nil || strings.Contains(string(content), "secret") {
			t.Errorf("%s: got %q, %v", name, content, err)
		}
		r, err := age.Decrypt(strings.NewReader(string(content)), test.with)
		if err != nil {
			t.Fatal(err)
		}
		if plain, err := io.ReadAll(r); err != nil || string(plain) != "secret\n" {
			t.Errorf("%s: decrypted %q, %v", name, plain, err)
		}
	}
}

func TestBadKeysAreNotQuoted(t *testing.T) {
	t.Parallel()
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", "SECRET", identity.String(), identity.Recipient().String() + "\n" + identity.Recipient().String()} {
		if _, err := sealed.ParseRecipient(text); err == nil || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%.20s: got %v", text, err)
		}
	}
	dir := t.TempDir()
	for name, file := range map[string]struct {
		content string
		mode    os.FileMode
		want    string
	}{
		"empty": {"\nSECRET\n", 0o600, "no passphrase"},
		"open":  {"SECRET", 0o644, "chmod"},
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(file.content), file.mode); err != nil {
			t.Fatal(err)
		}
		if file.mode != 0o600 && runtime.GOOS == "windows" {
			continue
		}
		if _, err := sealed.ReadPassphrase(path); err == nil || !strings.Contains(err.Error(), file.want) || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: got %v, want %q", name, err, file.want)
		}
	}
	if _, err := sealed.ReadPassphrase(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: got %v", err)
	}
}
