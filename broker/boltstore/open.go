// Package boltstore keeps connections, encrypted, in a bbolt file on this machine: a
// [record.Store] that needs no server. One process at a time has it open.
//
// The directory holds
//
//	connections.db   records, each encrypted with AES-256-GCM; the names of applications,
//	                 consumers and connectors are not secret and stay readable
//	key.json         the key, a Tink keyset in clear text: back it up apart from the database
//	holder           the process that has the store open, for error messages
//
// A record that was moved to another connection, or replaced by an earlier revision, does
// not decrypt. An attacker who can write to the directory can still restore an earlier
// state of the whole store; a store on one machine cannot detect that.
package boltstore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/tink-crypto/tink-go/v2/tink"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/tokenbroker/caddy-token-broker/broker/internal/keyfile"
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

	// LockTimeout is how long Open waits for another process to close the store.
	// Default: 5s.
	LockTimeout time.Duration
}

func (c *Config) lockTimeout() time.Duration {
	if c.LockTimeout <= 0 {
		return defaultLockTimeout
	}
	return c.LockTimeout
}

// Open opens the store in config.Dir. Errors: [ErrLocked], [ErrKeyMissing],
// [ErrKeyMismatch], or an error of the file system.
func Open(ctx context.Context, config Config) (*Store, error) {
	dir, err := prepareDir(config.Dir)
	if err != nil {
		return nil, fmt.Errorf("opening the embedded store: %w", err)
	}
	release, err := reserve(dir)
	if err != nil {
		return nil, err
	}
	store, err := open(ctx, dir, config.lockTimeout())
	if err != nil {
		release()
		return nil, err
	}
	store.release = release
	return store, nil
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
		_ = keyfile.SyncDir(filepath.Dir(abs))
	}
	return filepath.EvalSymlinks(abs)
}

func open(ctx context.Context, dir string, lockTimeout time.Duration) (*Store, error) {
	db, err := openDatabase(ctx, dir, lockTimeout)
	if err != nil {
		return nil, err
	}
	store := &Store{dir: dir, db: db}
	if err := store.begin(); err != nil {
		return nil, errors.Join(err, removeHolder(dir), db.Close())
	}
	return store, nil
}

func openDatabase(ctx context.Context, dir string, lockTimeout time.Duration) (*bolt.DB, error) {
	path := filepath.Join(dir, databaseName)
	for deadline := time.Now().Add(lockTimeout); ; {
		db, err := bolt.Open(path, 0o600, &bolt.Options{
			Timeout: lockAttempt, FreelistType: bolt.FreelistMapType, NoStatistics: true,
		})
		switch {
		case err == nil:
			return db, nil
		case !errors.Is(err, bolterrors.ErrTimeout):
			return nil, fmt.Errorf("opening %s: %w", path, err)
		case ctx.Err() != nil:
			return nil, fmt.Errorf("%w: %w", lockedBy(dir), ctx.Err())
		case time.Now().After(deadline):
			return nil, lockedBy(dir)
		}
	}
}

// begin finishes opening, once this process has locked the database.
func (s *Store) begin() error {
	if err := writeHolder(s.dir); err != nil {
		return fmt.Errorf("opening the embedded store: %w", err)
	}
	var err error
	if s.aead, err = s.unlock(); err != nil {
		return err
	}
	// bbolt syncs the file but not its directory entry.
	if err := keyfile.SyncDir(s.dir); err != nil {
		return fmt.Errorf("opening the embedded store: %w", err)
	}
	return nil
}

// unlock returns the database's key, a new one if there are no records and no key yet.
func (s *Store) unlock() (tink.AEAD, error) {
	keyPath, dbPath := filepath.Join(s.dir, keyName), filepath.Join(s.dir, databaseName)
	check, hasData, err := s.readMeta()
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", dbPath, err)
	}
	key, err := readKey(keyPath)
	isNew := errors.Is(err, os.ErrNotExist)
	if isNew && hasData {
		return nil, fmt.Errorf("%w: %s does not exist, and without it %s cannot be read: "+
			"restore the key file from a backup; or, to start without any connections, move the database away",
			ErrKeyMissing, keyPath, dbPath)
	}
	if isNew {
		key, err = createKey(keyPath)
	}
	if err != nil {
		return nil, err
	}
	if check != nil && !isNew {
		if _, err := key.Decrypt(check, checkData); err != nil {
			return nil, fmt.Errorf("%w: %s was not encrypted with %s: restore its own key file from a backup",
				ErrKeyMismatch, dbPath, keyPath)
		}
		return key, nil
	}
	if err := s.writeMeta(key); err != nil {
		return nil, fmt.Errorf("writing %s: %w", dbPath, err)
	}
	return key, nil
}

// readMeta returns the check value, nil in a new database, and whether there are records.
func (s *Store) readMeta() (check []byte, hasData bool, err error) {
	err = s.db.View(func(tx *bolt.Tx) error {
		if meta := tx.Bucket(metaBucket); meta != nil {
			check = append(check, meta.Get(checkKey)...)
		}
		if records := tx.Bucket(recordBucket); records != nil {
			first, _ := records.Cursor().First()
			hasData = first != nil
		}
		return nil
	})
	return check, hasData, err
}

func (s *Store) writeMeta(key tink.AEAD) error {
	check, err := key.Encrypt([]byte("token-broker"), checkData)
	if err != nil {
		return err
	}
	return s.db.Update(func(tx *bolt.Tx) error {
		for _, name := range [][]byte{recordBucket, revisionBucket, metaBucket} {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		return tx.Bucket(metaBucket).Put(checkKey, check)
	})
}
