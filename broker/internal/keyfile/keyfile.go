// Package keyfile keeps the encryption key of a directory's files beside them, as a Tink keyset
// in clear text that only its owner can read. It knows nothing of those files. The embedded
// store and the journal use it.
package keyfile

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/tink"
)

// Name is the name of a key file.
const Name = "key.json"

// ErrUnusable means that the file contains no key. The file is left unchanged.
var ErrUnusable = errors.New("the key file cannot be used")

// Read returns the key in the file at path. Errors: [os.ErrNotExist], [ErrUnusable], and others
// of the file system.
func Read(path string) (tink.AEAD, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	handle, err := insecurecleartextkeyset.Read(keyset.NewJSONReader(bytes.NewReader(b)))
	if err != nil {
		// Not wrapped: the parser's error can quote its input.
		return nil, fmt.Errorf("%w: %s is not a Tink keyset: restore it from a backup", ErrUnusable, path)
	}
	key, err := aead.New(handle)
	if err != nil {
		return nil, fmt.Errorf("%w: %s is not an encryption keyset: restore it from a backup", ErrUnusable, path)
	}
	return key, nil
}

// Fingerprint returns the SHA-256 of the file at path. As long as it stays the same, so does the
// key that [Read] returns, which takes much longer. Errors: those of the file system.
func Fingerprint(path string) ([sha256.Size]byte, error) {
	b, err := os.ReadFile(path)
	return sha256.Sum256(b), err
}

// Create writes a new AES-256-GCM key to a file at path, unless there is one, and returns the
// key that [Read] finds there: another process may have been faster. Even after a crash the
// file is complete or absent. It is durable once Create returns.
func Create(path string) (tink.AEAD, error) {
	handle, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := insecurecleartextkeyset.Write(handle, keyset.NewJSONWriter(&b)); err != nil {
		return nil, err
	}
	if err := place(path, b.Bytes()); err != nil {
		return nil, err
	}
	return Read(path)
}

// place writes a file that appears at path complete, and never replaces another.
func place(path string, data []byte) error {
	dir := filepath.Dir(path)
	// CreateTemp opens with O_EXCL and mode 0600.
	f, err := os.CreateTemp(dir, filepath.Base(path)+".*.tmp")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = linkOrRename(f.Name(), path)
	}
	if removed := os.Remove(f.Name()); removed != nil && !errors.Is(removed, os.ErrNotExist) {
		err = errors.Join(err, removed)
	}
	if err != nil {
		return err
	}
	return SyncDir(dir)
}

// linkOrRename gives a file the name path unless that exists, which is not an error. Only a
// hard link does so without a race: on a file system without links, it may overwrite the file
// that another process creates at the same moment.
func linkOrRename(from, path string) error {
	err := os.Link(from, path)
	if err == nil || errors.Is(err, os.ErrExist) {
		return nil
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.Rename(from, path)
}
