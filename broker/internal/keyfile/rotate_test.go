package keyfile_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/internal/keyfile"
)

func TestARotationReplacesTheKeyInTwoSteps(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), keyfile.Name)
	old, err := keyfile.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if keyfile.IsRotating(path) {
		t.Error("a new file has two keys")
	}
	next, err := keyfile.BeginRotation(path)
	if err != nil {
		t.Fatal(err)
	}
	again, err := keyfile.BeginRotation(path)
	if err != nil {
		t.Fatal(err)
	}
	wantSame(t, next, again)
	both, err := keyfile.Read(path)
	if err != nil || !keyfile.IsRotating(path) {
		t.Fatalf("the file does not have two keys: %v", err)
	}
	wantSame(t, old, both)
	wantSame(t, both, next) // what the file encrypts, the new key alone decrypts
	if err := keyfile.EndRotation(path); err != nil {
		t.Fatal(err)
	}
	left, err := keyfile.Read(path)
	if err != nil || keyfile.IsRotating(path) {
		t.Fatalf("the file still has two keys: %v", err)
	}
	wantSame(t, next, left)
	ciphertext, err := old.Encrypt([]byte("data"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := left.Decrypt(ciphertext, nil); err == nil {
		t.Error("the old key is still in the file")
	}
	if err := keyfile.EndRotation(path); err != nil {
		t.Errorf("a second end: %v", err)
	}
	wantAlone(t, path)
}

func TestDestroyRemovesAKeyAlsoAfterACrash(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), keyfile.Name)
	if _, err := keyfile.Create(path); err != nil {
		t.Fatal(err)
	}
	crashed := func() error { return os.Rename(path, path+".old") }
	for _, before := range []func() error{func() error { return nil }, crashed} {
		if _, err := keyfile.Create(path); err != nil {
			t.Fatal(err)
		}
		if err := before(); err != nil {
			t.Fatal(err)
		}
		if err := keyfile.Destroy(path); err != nil {
			t.Fatal(err)
		}
		if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) > 0 {
			t.Errorf("files are left: %v, %v", entries, err)
		}
	}
	if err := keyfile.Destroy(path); err != nil {
		t.Errorf("without a file: %v", err)
	}
}

func TestKeysCanBeGivenAsText(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), keyfile.Name)
	created, err := keyfile.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := keyfile.Parse(string(content) + "\n")
	if err != nil {
		t.Fatal(err)
	}
	wantSame(t, created, parsed)
	const raw = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
	first, err := keyfile.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	second, err := keyfile.Parse(" " + raw + "\n")
	if err != nil {
		t.Fatal(err)
	}
	wantSame(t, first, second)
	for _, text := range []string{"", "SECRET", "U0VDUkVU", `{"SECRET`, raw + "SECRET"} {
		if _, err := keyfile.Parse(text); !errors.Is(err, keyfile.ErrUnusable) || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%q: got %v, want ErrUnusable without the text", text, err)
		}
	}
}
