// Package keyfile keeps the encryption key of a directory's files beside them: a Tink
// keyset in clear text, readable by its owner alone.
package keyfile

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/tink"
)

// Name is what key files are called.
const Name = "key.json"

// ErrUnusable means that the file holds no key. It is left as it is.
var ErrUnusable = errors.New("the key file cannot be used")

// Read returns the key in the file at path. Errors: [os.ErrNotExist] if there is no
// such file, [ErrUnusable], or what the file system says.
func Read(path string) (tink.AEAD, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	handle, err := insecurecleartextkeyset.Read(keyset.NewJSONReader(bytes.NewReader(b)))
	if err != nil {
		// Not wrapped: the parser's error can quote what it read.
		return nil, fmt.Errorf("%w: %s is not a Tink keyset: restore it from a backup", ErrUnusable, path)
	}
	key, err := aead.New(handle)
	if err != nil {
		return nil, fmt.Errorf("%w: %s is not a keyset for encryption: restore it from a backup", ErrUnusable, path)
	}
	return key, nil
}

// Create makes a file with a new AES-256-GCM key at path and returns what [Read] finds
// there, which is another process's key if that was faster. Whenever the machine
// crashes, the file is there whole or not at all; it is durable when Create returns.
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

// place writes a file that is visible only when it is whole, and never over another.
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

// linkOrRename gives a file the name path unless there is one of that name, which is
// no error. Only a link decides that without a race; on a file system that has none,
// a process that writes to path at the same moment may go unnoticed.
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
