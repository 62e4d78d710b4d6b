package command

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/tokenbroker/caddy-token-broker/caddymodule/command/client"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/command/sealed"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/command/verifying"
)

func TestVerifyReadsTheFile(t *testing.T) { //nolint:paralleltest // it sets a variable
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer key" {
			t.Errorf("got the key %q", r.Header.Get("Authorization"))
		}
		_, _ = w.Write([]byte(`{"data": [{"row": 0, "status_code": 200, "result": "same", "health": "ok"}]}`))
	}))
	defer server.Close()
	t.Setenv(client.KeyVariable, "key")
	file := filepath.Join(t.TempDir(), "rows.ndjson")
	if err := os.WriteFile(file, []byte(`{"consumer_id":"jane","unified_api":"crm","service_id":"acme"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	identity, results := "", ""
	run := func(rate int, args ...string) (string, error) {
		flags := verifyFlags()
		if err := flags.Parse([]string{"--to", server.URL, "--app", "my-app", "--identity", identity}); err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		err := verify(t.Context(), verifying.Options{Application: "my-app", ProbeRate: rate, Out: &out, Results: results}, io.Discard,
			func(name string) string { return flags.Lookup(name).Value.String() }, args)
		return out.String(), err
	}
	if out, err := run(5, file); err != nil || !strings.HasPrefix(out, "1 rows: 1 same, 0 different, 0 missing\nconnections: 1 healthy") {
		t.Errorf("got %s, %v", out, err)
	}
	for _, args := range [][]string{{}, {file, file}, {file + "x"}, {filepath.Dir(file)}} {
		if _, err := run(5, args...); err == nil {
			t.Errorf("%q: got no error", args)
		}
	}
	sealedFile, key := encryptedFile(t, file)
	if _, err := run(5, sealedFile); err == nil || err.Error() != sealedFile+" is encrypted with age: give --identity or --passphrase-file" {
		t.Errorf("without a key: got %v", err)
	}
	identity = key
	if out, err := run(5, sealedFile); err != nil || !strings.HasPrefix(out, "1 rows: 1 same") {
		t.Errorf("an encrypted file: got %s, %v", out, err)
	}
	if _, err := run(0, file); err == nil {
		t.Error("a rate of 0 is accepted")
	}
	results = filepath.Join(filepath.Dir(file), ".", "link")
	if err := os.Link(file, results); err != nil {
		results = file
	}
	_, err := run(5, file)
	if text, readErr := os.ReadFile(file); err == nil || readErr != nil || len(text) == 0 {
		t.Errorf("the file is replaced by its results: %v, %v", err, readErr)
	}
}

// encryptedFile returns a file with the text of plain, encrypted with age, and the file of the
// identity that decrypts it.
func encryptedFile(t *testing.T, plain string) (path, identityFile string) {
	t.Helper()
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(plain)
	if err != nil {
		t.Fatal(err)
	}
	path, identityFile = plain+".age", plain+".key"
	file, err := sealed.Create(path, false, identity.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	_, err = file.Write(text)
	if err := errors.Join(err, file.Commit(), os.WriteFile(identityFile, []byte(identity.String()), 0o600)); err != nil {
		t.Fatal(err)
	}
	return path, identityFile
}
