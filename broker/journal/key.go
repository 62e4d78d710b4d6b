package journal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/tokenbroker/caddy-token-broker/broker/internal/keyfile"
	"github.com/tokenbroker/caddy-token-broker/internal/syncdir"
)

const keyName = keyfile.Name

// ErrKey means that the key that the entries are encrypted with is missing or wrong. No file
// was changed; the error's text names the file and says what to do.
var ErrKey = errors.New("the key of the journal is missing or wrong")

// sampleData is the associated data of [Journal.sample].
var sampleData = []byte("token-broker/journal/sample")

// loadKey takes the key on disk into use. If that is another key than before, the process's
// own file counts as broken, so that its entries are written again under the new key.
func (j *Journal) loadKey() error {
	if j.dir == "" {
		return errors.New("the journal has no directory")
	}
	content, err := keyfile.Fingerprint(j.keyPath())
	if err == nil && j.key != nil && content == j.keyContent {
		return nil
	}
	key, err := keyfile.Read(j.keyPath())
	if errors.Is(err, os.ErrNotExist) {
		key, err = j.makeKey()
	}
	switch {
	case errors.Is(err, keyfile.ErrUnusable):
		return fmt.Errorf("%w: %w", ErrKey, err)
	case errors.Is(err, ErrKey):
		return err
	case err != nil:
		return fmt.Errorf("opening the journal in %s: %w", j.dir, err)
	}
	if j.own != nil && !decrypts(key, j.sample) {
		j.own.broken = true
	}
	sample, err := key.Encrypt(nil, sampleData)
	if err != nil {
		return fmt.Errorf("opening the journal in %s: %w", j.dir, err)
	}
	if j.key == nil {
		keyfile.WarnIfExposed(context.Background(), j.log, j.dir, j.keyPath())
	}
	j.key, j.sample, j.keyContent = key, sample, content
	return nil
}

func decrypts(key tink.AEAD, sample []byte) bool {
	_, err := key.Decrypt(sample, sampleData)
	return err == nil
}

// makeKey creates the directory, and a key unless existing files need another one.
func (j *Journal) makeKey() (tink.AEAD, error) {
	if err := makeDir(j.dir); err != nil {
		return nil, err
	}
	left, err := j.leftBehind()
	if err != nil {
		return nil, err
	}
	if left == "" {
		return keyfile.Create(j.keyPath())
	}
	// Another process may have created the key, and then the file, since the first attempt.
	key, err := keyfile.Read(j.keyPath())
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s does not exist, and without it %s cannot be read: restore the key file from a backup; "+
			"or, to give up the entries of the journal, move its files away", ErrKey, j.keyPath(), left)
	}
	return key, err
}

// leftBehind returns the path of a file with entries other than the process's own, empty if
// there is none.
func (j *Journal) leftBehind() (string, error) {
	paths, err := j.paths()
	if err != nil {
		return "", err
	}
	for _, path := range paths {
		if j.own != nil && j.own.path == path {
			continue
		}
		info, err := os.Stat(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		if info.Size() > 0 {
			return path, nil
		}
	}
	return "", nil
}

// makeDir creates the directory, durably, if it does not exist.
func makeDir(dir string) error {
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	// Best effort: this user may not be allowed to open the parent directory.
	_ = syncdir.Sync(filepath.Dir(dir))
	return nil
}

// RemoveKey removes the key of the journal in dir, if no entry there needs it: the next process
// makes another one.
func RemoveKey(dir string) error {
	j := Open(Config{Dir: dir})
	left, err := j.leftBehind()
	if err != nil || left != "" {
		return err
	}
	return keyfile.Destroy(j.keyPath())
}
