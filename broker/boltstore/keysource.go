package boltstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/tokenbroker/caddy-token-broker/broker/internal/keyfile"
)

// A keySource is where the key of a store comes from.
type keySource struct {
	path  string // empty if the key is given
	given tink.AEAD
}

// source returns where the key of the store in dir comes from.
func (c *Config) source(dir string) (keySource, error) {
	switch {
	case c.Key.IsZero() && c.KeyFile == "":
		return keySource{path: filepath.Join(dir, keyName)}, nil
	case c.Key.IsZero():
		path, err := filepath.Abs(c.KeyFile)
		return keySource{path: path}, err
	case c.KeyFile != "":
		return keySource{}, errors.New("the embedded store has a key and a key file: configure one of them")
	}
	key, err := keyfile.Parse(c.Key.Reveal())
	if err != nil {
		return keySource{}, fmt.Errorf("the configured key of the embedded store: %w", err)
	}
	return keySource{given: key}, nil
}

// resolve makes path that of the file itself: a key is replaced and destroyed there, and not in
// place of a symbolic link.
func (k *keySource) resolve() error {
	if k.path == "" {
		return nil
	}
	path, err := filepath.EvalSymlinks(k.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil // it has yet to be made
	}
	if err == nil {
		k.path = path
	}
	return err
}

// read returns os.ErrNotExist if there is no key file.
func (k keySource) read() (tink.AEAD, error) {
	if k.given != nil {
		return k.given, nil
	}
	return readKey(k.path)
}

// String names the key in errors.
func (k keySource) String() string {
	if k.given != nil {
		return "the configured key"
	}
	return k.path
}

// remedy says how to get the right key.
func (k keySource) remedy() string {
	if k.given != nil {
		return "configure its own key"
	}
	return "restore its own key file from a backup"
}

// warn logs what is unsafe about the key.
func (k keySource) warn(ctx context.Context, logger *slog.Logger, dir string) {
	keyfile.WarnIfExposed(ctx, logger, dir, k.path)
	if k.path != "" && keyfile.IsRotating(k.path) {
		logger.LogAttrs(ctx, slog.LevelWarn, "the change of the embedded store's key was broken off; stop the server and run store rekey again",
			slog.String("file", k.path))
	}
}
