package importing

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"filippo.io/age"
	"filippo.io/age/armor"

	"github.com/tokenbroker/caddy-token-broker/caddymodule/command/client"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/command/sealed"
)

// encrypt returns text encrypted for the recipients.
func encrypt(t *testing.T, armored bool, text string, recipients ...age.Recipient) []byte {
	t.Helper()
	var out bytes.Buffer
	var w io.Writer = &out
	if armored {
		w = armor.NewWriter(&out)
	}
	plain, err := age.Encrypt(w, recipients...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(plain, text); err != nil {
		t.Fatal(err)
	}
	if err := plain.Close(); err != nil {
		t.Fatal(err)
	}
	if armored {
		if err := w.(io.Closer).Close(); err != nil {
			t.Fatal(err)
		}
	}
	return out.Bytes()
}

func TestAFileThatAgeHasEncryptedIsRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name string, text []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	phrase, err := age.NewScryptRecipient("correct horse")
	if err != nil {
		t.Fatal(err)
	}
	phrase.SetWorkFactor(10)
	identityFile := file("identity", []byte("# created today\n"+identity.String()+"\n"))
	phraseFile := file("phrase", []byte("correct horse\r\nas export reads it: not this line\n"))
	text := row(1) + "\n" + row(2) + "\n"
	for name, o := range map[string]Options{
		"identity":   {Path: file("a.age", encrypt(t, false, text, identity.Recipient())), Keys: sealed.Keys{IdentityFile: identityFile}},
		"armored":    {Path: file("b.age", encrypt(t, true, text, identity.Recipient())), Keys: sealed.Keys{IdentityFile: identityFile}},
		"passphrase": {Path: file("c.age", encrypt(t, false, text, phrase)), Keys: sealed.Keys{PassphraseFile: phraseFile}},
	} {
		f := &fakeBroker{}
		if _, _, err := run(t.Context(), t, f, o); err != nil || len(f.stored) != 2 {
			t.Errorf("%s: got %v, %d connections", name, err, len(f.stored))
		}
	}
	encrypted := file("d.age", encrypt(t, false, text, identity.Recipient()))
	for want, o := range map[string]Options{
		"give --identity or --passphrase-file": {Path: encrypted},
		"cannot be decrypted":                  {Path: encrypted, Keys: sealed.Keys{PassphraseFile: phraseFile}},
		"has no age identities":                {Path: encrypted, Keys: sealed.Keys{IdentityFile: phraseFile}},
	} {
		if _, _, err := run(t.Context(), t, &fakeBroker{}, o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// Results begin with the removal of those before.
func TestResultsReplaceNothingElse(t *testing.T) {
	t.Parallel()
	path := writeRows(t, row(1), "{}")
	dir := filepath.Dir(path)
	linked, device := filepath.Join(dir, "linked"), filepath.Join(dir, "empty")
	if err := errors.Join(os.Link(path, linked), os.Mkdir(device, 0o700)); err != nil {
		t.Skip("they cannot be made here: ", err)
	}
	for _, results := range []string{path, dir + "/./" + filepath.Base(path), linked, device} {
		if _, _, err := run(t.Context(), t, &fakeBroker{}, Options{Path: path, Results: results}); err == nil || strings.HasPrefix(err.Error(), "refused rows") {
			t.Errorf("%s: got %v", results, err)
		}
		if text, err := os.ReadFile(path); err != nil || !strings.HasPrefix(string(text), row(1)) {
			t.Fatalf("%s: the file is gone: %q, %v", results, text, err)
		}
	}
	if _, err := os.Stat(device); err != nil {
		t.Error(err)
	}
}

func TestAPipeIsReadAsStandardInputIs(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	path := fmt.Sprintf("/dev/fd/%d", r.Fd()) // as the shell's <(...)
	if _, err := os.Stat(path); err != nil {
		t.Skip("this system has no names for open files: ", err)
	}
	go func() {
		_, _ = w.WriteString(row(1) + "\n")
		_ = w.Close()
	}()
	f := &fakeBroker{}
	results := filepath.Join(t.TempDir(), "refused")
	if _, _, err := run(t.Context(), t, f, Options{Path: path, Results: results}); err != nil || len(f.stored) != 1 {
		t.Errorf("got %v, %d connections", err, len(f.stored))
	}
	if o := (Options{Path: path, stream: true}); filepath.Dir(o.results()) != "." {
		t.Errorf("the refused rows go to %s", o.results())
	}
}

func TestARedirectEndsTheImport(t *testing.T) {
	t.Parallel()
	var requests atomic.Int32
	var out, errs strings.Builder
	o := Options{Path: writeRows(t, rows(10)...), Target: "http://broker", Application: "my-app", Out: &out, Err: &errs}
	o.Do = func(context.Context, string, string, any, any) error {
		requests.Add(1)
		return &client.Error{Status: http.StatusPermanentRedirect}
	}
	err := Run(t.Context(), o)
	if err == nil || !strings.Contains(err.Error(), "308 Permanent Redirect") || requests.Load() != 1 {
		t.Errorf("got %v after %d requests", err, requests.Load())
	}
}
