package journal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/tokenbroker/caddy-token-broker/broker/internal/keyfile"
)

const keyName = keyfile.Name

// ErrKey means that the key which entries are encrypted with is missing or is another
// one. Nothing was changed; the error's text names the file and what to do.
var ErrKey = errors.New("the key of the journal is missing or wrong")

// sampleData is the associated data of the value by which the key in use is known.
var sampleData = []byte("token-broker/journal/sample")

// loadKey makes the key that is on the disk the one in use. If it cannot read what
// this process has written, that is to be written anew.
func (j *Journal) loadKey() error {
	if j.dir == "" {
		return errors.New("the journal has no directory")
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
	j.key, j.sample = key, sample
	return nil
}

func decrypts(key tink.AEAD, sample []byte) bool {
	_, err := key.Decrypt(sample, sampleData)
	return err == nil
}

// makeKey makes the directory, and a key unless there are files that need another.
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
	// Another process may have made both, the key first, since it was looked for.
	key, err := keyfile.Read(j.keyPath())
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s is not there, and without it %s cannot be read: restore the key file from a backup; "+
			"or, to give up what the journal holds, move its files away", ErrKey, j.keyPath(), left)
	}
	return key, err
}

// leftBehind returns the path of a file with entries that this process has not got in
// memory, empty if there is none.
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

// makeDir makes the directory durably if there is none.
func makeDir(dir string) error {
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	// As well as can be: the parent may be one that this user cannot open.
	_ = keyfile.SyncDir(filepath.Dir(dir))
	return nil
}
