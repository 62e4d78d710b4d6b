package keyfile

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/aead/subtle"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/tokenbroker/caddy-token-broker/internal/syncdir"
)

// keySize is the size of an AES-256 key, in bytes.
const keySize = 32

// Parse returns the key in text: the content of a key file, or 32 bytes in base64. Its error is
// [ErrUnusable].
func Parse(text string) (tink.AEAD, error) {
	text = strings.TrimSpace(text)
	if strings.HasPrefix(text, "{") {
		return parse([]byte(text), "it")
	}
	// Not wrapped: errors could quote the key.
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(raw) != keySize {
		return nil, fmt.Errorf("%w: it is neither the content of a key file nor %d bytes in base64", ErrUnusable, keySize)
	}
	return subtle.NewAESGCM(raw)
}

// BeginRotation adds a new key to the key file at path, and makes it the one that encrypts; what
// the old one has encrypted can still be read with the file. It returns the new key alone. If a
// rotation has begun already, it returns that one's. Even after a crash the file is complete.
func BeginRotation(path string) (tink.AEAD, error) {
	handle, err := load(path)
	if err != nil {
		return nil, err
	}
	if handle.Len() == 1 {
		manager := keyset.NewManagerFromHandle(handle)
		id, err := manager.Add(aead.AES256GCMKeyTemplate())
		if err == nil {
			err = manager.SetPrimary(id)
		}
		if err == nil {
			handle, err = manager.Handle()
		}
		if err == nil {
			err = store(path, handle)
		}
		if err != nil {
			return nil, err
		}
	}
	if handle, err = primary(handle); err != nil {
		return nil, err
	}
	return aead.New(handle)
}

// EndRotation leaves in the key file at path only the key that encrypts. It overwrites the file
// that it replaces, as far as the file system lets it.
func EndRotation(path string) error {
	handle, err := load(path)
	if err != nil || handle.Len() == 1 {
		return err
	}
	if handle, err = primary(handle); err != nil {
		return err
	}
	old, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	if err := store(path, handle); err != nil {
		return errors.Join(err, old.Close())
	}
	return errors.Join(erase(old), old.Close())
}

// Destroy overwrites the key file at path, as far as the file system lets it, and removes it. A
// file that does not exist is not an error. After a crash, call it again: then nothing has the
// name path, but the key may still be there.
func Destroy(path string) error {
	old := path + ".old" // a file at path has a key or does not exist
	if err := os.Rename(path, old); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(old, os.O_WRONLY, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := errors.Join(erase(f), f.Close(), os.Remove(old)); err != nil {
		return err
	}
	return syncdir.Sync(filepath.Dir(path))
}

// IsRotating reports whether the key file at path has more than one key.
func IsRotating(path string) bool {
	handle, err := load(path)
	return err == nil && handle.Len() > 1
}

// primary returns a keyset with only the key that encrypts.
func primary(handle *keyset.Handle) (*keyset.Handle, error) {
	manager := keyset.NewManagerFromHandle(handle)
	info := handle.KeysetInfo()
	for _, key := range info.GetKeyInfo() {
		if key.GetKeyId() == info.GetPrimaryKeyId() {
			continue
		}
		if err := manager.Delete(key.GetKeyId()); err != nil {
			return nil, err
		}
	}
	return manager.Handle()
}

func load(path string) (*keyset.Handle, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return parseKeyset(b, path)
}

// store replaces the key file at path.
func store(path string, handle *keyset.Handle) error {
	var b bytes.Buffer
	if err := insecurecleartextkeyset.Write(handle, keyset.NewJSONWriter(&b)); err != nil {
		return err
	}
	return write(path, b.Bytes(), os.Rename)
}

// erase overwrites a file.
func erase(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	_, err = f.WriteAt(make([]byte, info.Size()), 0)
	return errors.Join(err, f.Sync())
}
