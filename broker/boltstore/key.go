package boltstore

import (
	"errors"
	"fmt"

	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/tokenbroker/caddy-token-broker/broker/internal/keyfile"
)

// Errors of the key file. When one of them is returned, no file was changed.
var (
	// ErrKeyMissing means that there are records but no key file.
	ErrKeyMissing = errors.New("the key of the embedded store is missing")

	// ErrKeyMismatch means that the key file is damaged or belongs to another database.
	ErrKeyMismatch = errors.New("the key of the embedded store is wrong")
)

// checkData is the associated data of the check value, which only the right key decrypts.
var checkData = []byte("token-broker/embedded/check")

// readKey returns os.ErrNotExist if there is no key file.
func readKey(path string) (tink.AEAD, error) {
	key, err := keyfile.Read(path)
	if errors.Is(err, keyfile.ErrUnusable) {
		return nil, fmt.Errorf("%w: %w", ErrKeyMismatch, err)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the key of the embedded store: %w", err)
	}
	return key, nil
}

// createKey creates the key file. The caller holds the database's lock, so no other process
// creates one at the same time.
func createKey(path string) (tink.AEAD, error) {
	key, err := keyfile.Create(path)
	if err != nil {
		return nil, fmt.Errorf("creating a key for the embedded store: %w", err)
	}
	return key, nil
}
