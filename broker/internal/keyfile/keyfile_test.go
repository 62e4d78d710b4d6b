package keyfile_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/tokenbroker/caddy-token-broker/broker/internal/keyfile"
)

func TestOnlyItsOwnerCanReadAKey(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), keyfile.Name)
	created, err := keyfile.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	read, err := keyfile.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	wantSame(t, created, read)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != 0o600 && runtime.GOOS != "windows" {
		t.Errorf("mode = %o, want 600", got)
	}
	wantAlone(t, path)
}

func TestCreateUsesAnExistingKey(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), keyfile.Name)
	keys := make([]tink.AEAD, 16)
	var creators sync.WaitGroup
	for i := range keys {
		creators.Go(func() {
			var err error
			if keys[i], err = keyfile.Create(path); err != nil {
				t.Error(err)
			}
		})
	}
	creators.Wait()
	if t.Failed() {
		return
	}
	for _, key := range keys[1:] {
		wantSame(t, keys[0], key)
	}
	wantAlone(t, path)
}

func TestMissingAndDamagedKeysAreDifferentErrors(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), keyfile.Name)
	if _, err := keyfile.Read(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Read of no file = %v, want os.ErrNotExist", err)
	}
	for _, content := range []string{"", "{}", `{"primaryKeyId":1,"key":[{"keyData":{"value":"c2VjcmV0` /* cut off */} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		for name, open := range map[string]func(string) (tink.AEAD, error){"Read": keyfile.Read, "Create": keyfile.Create} {
			_, err := open(path)
			if !errors.Is(err, keyfile.ErrUnusable) || !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "c2VjcmV0") {
				t.Errorf("%s of %q = %v; want ErrUnusable that names the file and not its content", name, content, err)
			}
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != content {
			t.Errorf("the file now holds %q, %v; want %q", got, err, content)
		}
	}
}

func wantSame(t *testing.T, a, b tink.AEAD) {
	t.Helper()
	ciphertext, err := a.Encrypt([]byte("data"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Decrypt(ciphertext, nil); err != nil {
		t.Errorf("the keys differ: %v", err)
	}
}

// wantAlone checks that no other file was left beside the key.
func wantAlone(t *testing.T, path string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("directory = %v, %v; want the key alone", entries, err)
	}
}
