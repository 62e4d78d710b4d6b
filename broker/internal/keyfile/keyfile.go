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

	"github.com/tokenbroker/caddy-token-broker/internal/syncdir"
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
	return parse(b, path)
}

// parse returns the key in the content of the key file that name names.
func parse(content []byte, name string) (tink.AEAD, error) {
	handle, err := parseKeyset(content, name)
	if err != nil {
		return nil, err
	}
	key, err := aead.New(handle)
	if err != nil {
		return nil, fmt.Errorf("%w: %s is not an encryption keyset: restore it from a backup", ErrUnusable, name)
	}
	return key, nil
}

// Fingerprint returns the SHA-256 of the file at path. As long as it stays the same, so does the
// key that [Read] returns, which takes much longer. Errors: those of the file system.
func Fingerprint(path string) ([sha256.Size]byte, error) {
	b, err := os.ReadFile(path)
	return sha256.Sum256(b), err
}

func parseKeyset(content []byte, name string) (*keyset.Handle, error) {
	handle, err := insecurecleartextkeyset.Read(keyset.NewJSONReader(bytes.NewReader(content)))
	if err != nil {
		// Not wrapped: the parser's error can quote its input.
		return nil, fmt.Errorf("%w: %s is not a Tink keyset: restore it from a backup", ErrUnusable, name)
	}
	return handle, nil
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
	if err := write(path, b.Bytes(), linkOrRename); err != nil {
		return nil, err
	}
	return Read(path)
}

// write writes a file that appears at path complete. rename gives it its name.
func write(path string, data []byte, rename func(from, to string) error) error {
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
		err = rename(f.Name(), path)
	}
	if removed := os.Remove(f.Name()); removed != nil && !errors.Is(removed, os.ErrNotExist) {
		err = errors.Join(err, removed)
	}
	if err != nil {
		return err
	}
	return syncdir.Sync(dir)
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
