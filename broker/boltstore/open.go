// Package boltstore keeps connections, encrypted, in a bbolt file on this machine: a
// [record.Store] that needs no server. One process at a time has it open.
//
// The directory holds
//
//	connections.db   records, each encrypted with AES-256-GCM; the names of applications,
//	                 consumers and connectors are not secret and stay readable
//	key.json         the key, a Tink keyset in clear text: back it up apart from the database. It can
//	                 be kept elsewhere; see [Config]
//	holder           the process that has the store open, for error messages
//
// A record that was moved to another connection, or replaced by an earlier revision, does
// not decrypt. An attacker who can write to the directory can still restore an earlier
// state of the whole store; a store on one machine cannot detect that.
//
// bbolt has no checksums and panics over a damaged page. So all reads go through package boltfile,
// which checks each page, and before bbolt writes the pages are checked that it will use. What no
// check of a page can find is found by keeping every key twice, in two buckets: a connection that damage
// hides in one of them is not taken for one that does not exist. And the root page has a stamp, with
// its transaction and a sum of all revisions: pages of an earlier state do not fit it.
package boltstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/internal/keyfile"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
	"github.com/tokenbroker/caddy-token-broker/internal/syncdir"
)

// The files of a store.
const (
	databaseName = "connections.db"
	keyName      = keyfile.Name
	holderName   = "holder"
)

const (
	defaultLockTimeout = 5 * time.Second
	// lockAttempt is how long bbolt waits for the lock between two checks of ctx.
	lockAttempt = 100 * time.Millisecond
)

// A Config says where the store is and how to open it.
type Config struct {
	// Dir is the directory of the store's files. Open creates it, with mode 0700, if it
	// does not exist. Required.
	Dir string

	// KeyFile is the file with the key, which is best kept apart from Dir. Open creates it with a
	// new store. Default: key.json in Dir.
	KeyFile string

	// Key is the key itself, in place of KeyFile: the content of a key file, or 32 bytes in
	// base64. Open then cannot tell a new store from one whose database is missing.
	Key secret.String

	// LockTimeout is how long Open waits for another process to close the store.
	// Default: 5s.
	LockTimeout time.Duration

	// Existing makes Open return [ErrDatabaseMissing] if there is no database, instead of
	// creating one.
	Existing bool

	// Logger receives operational messages. If nil, they are discarded.
	Logger *slog.Logger
}

func (c *Config) lockTimeout() time.Duration {
	if c.LockTimeout <= 0 {
		return defaultLockTimeout
	}
	return c.LockTimeout
}

func (c *Config) logger() *slog.Logger {
	if c.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return c.Logger
}

// Open opens the store in config.Dir. Errors: [ErrLocked], [ErrKeyMissing],
// [ErrKeyMismatch], [ErrDatabaseMissing], [ErrDamaged], or an error of the file system.
//
// A store with damage is opened if anything in it can be read. What is damaged then returns
// [ErrDamaged], and so does [Store.Check].
func Open(ctx context.Context, config Config) (*Store, error) {
	if config.Existing {
		if err := config.find(); err != nil {
			return nil, err
		}
	}
	dir, err := prepareDir(config.Dir)
	if err != nil {
		return nil, fmt.Errorf("opening the embedded store: %w", err)
	}
	release, err := reserve(dir)
	if err != nil {
		return nil, err
	}
	store := &Store{dir: dir, suspects: make(map[uint64]bool)}
	store.changes.commit = store.commit
	if err := store.open(ctx, &config); err != nil {
		release()
		return nil, err
	}
	store.release = release
	store.keys.warn(ctx, config.logger(), dir)
	return store, nil
}

// find returns an error unless there is a database.
func (c *Config) find() error {
	path := filepath.Join(c.Dir, databaseName)
	_, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: %s does not exist", ErrDatabaseMissing, path)
	}
	return err
}

// prepareDir creates the directory and returns its path without symbolic links, by which
// reserve tells stores apart.
func prepareDir(dir string) (string, error) {
	if dir == "" {
		return "", errors.New("no directory is configured")
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(abs); errors.Is(err, os.ErrNotExist) {
		if err := os.MkdirAll(abs, 0o700); err != nil {
			return "", err
		}
		// Best effort: this user may not be allowed to open the parent directory.
		_ = syncdir.Sync(filepath.Dir(abs))
	}
	return filepath.EvalSymlinks(abs)
}

// open opens the database, and reads the key that belongs to it.
func (s *Store) open(ctx context.Context, config *Config) (err error) {
	if s.keys, err = config.source(s.dir); err != nil {
		return err
	}
	if s.db, err = openDatabase(ctx, s.dir, config, s.keys); err != nil {
		return err
	}
	if err := s.begin(ctx); err != nil {
		return errors.Join(err, removeHolder(s.dir), s.db.close())
	}
	return nil
}

// begin finishes opening, once this process has locked the database.
func (s *Store) begin(ctx context.Context) error {
	if err := writeHolder(s.dir); err != nil {
		return fmt.Errorf("opening the embedded store: %w", err)
	}
	if err := s.readStamp(); err != nil {
		return err
	}
	var err error
	if s.aead, err = s.unlock(); err != nil {
		return err
	}
	if err := s.verify(ctx); err != nil {
		return err
	}
	if s.db.oldHeader != nil {
		if err := s.restoreLastChanges(); err != nil {
			return err
		}
	}
	// bbolt syncs the file but not its directory entry.
	if err := syncdir.Sync(s.dir); err != nil {
		return fmt.Errorf("opening the embedded store: %w", err)
	}
	return nil
}
