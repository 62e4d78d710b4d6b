package boltstore

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

// Errors of the key file. Nothing was changed when one of them is returned.
var (
	// ErrKeyMissing means that there are records but no key to read them with.
	ErrKeyMissing = errors.New("the key of the embedded store is missing")

	// ErrKeyMismatch means that the key file is damaged, or belongs to another database.
	ErrKeyMismatch = errors.New("the key of the embedded store is the wrong one")
)

// checkData is the associated data of the value by which the right key is known.
var checkData = []byte("token-broker/embedded/check")

// readKey returns os.ErrNotExist if there is no key file.
func readKey(path string) (tink.AEAD, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the key of the embedded store: %w", err)
	}
	handle, err := insecurecleartextkeyset.Read(keyset.NewJSONReader(bytes.NewReader(b)))
	if err != nil {
		// Not wrapped: the parser's error can quote what it read.
		return nil, fmt.Errorf("%w: %s is not a Tink keyset: restore it from a backup", ErrKeyMismatch, path)
	}
	key, err := aead.New(handle)
	if err != nil {
		return nil, fmt.Errorf("%w: %s is not a keyset for encryption: restore it from a backup", ErrKeyMismatch, path)
	}
	return key, nil
}

// createKey is called by who has the database's lock, so nobody else creates one.
// The file is there whole and durable, or not at all.
func createKey(path string) (tink.AEAD, error) {
	handle, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
	if err != nil {
		return nil, fmt.Errorf("making a key for the embedded store: %w", err)
	}
	var b bytes.Buffer
	if err := insecurecleartextkeyset.Write(handle, keyset.NewJSONWriter(&b)); err != nil {
		return nil, fmt.Errorf("making a key for the embedded store: %w", err)
	}
	if err := writeDurably(path, b.Bytes()); err != nil {
		return nil, fmt.Errorf("writing the key of the embedded store: %w", err)
	}
	return aead.New(handle)
}

func writeDurably(path string, data []byte) error {
	// CreateTemp opens with O_EXCL and mode 0600.
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.tmp")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncDir(filepath.Dir(path))
}
