package boltstore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/tink-crypto/tink-go/v2/tink"
	bolt "go.etcd.io/bbolt"

	"github.com/tokenbroker/caddy-token-broker/broker/boltstore/internal/boltfile"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/keyfile"
)

// Errors of the pair of key and database. When one of them is returned, no file was changed.
var (
	// ErrKeyMissing means that there is a database but no key file.
	ErrKeyMissing = errors.New("the key of the embedded store is missing")

	// ErrDatabaseMissing means that there is a key file but no database.
	ErrDatabaseMissing = errors.New("the database of the embedded store is missing")

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

// unlock returns the database's key, a new one if the database is new and there is no key yet.
func (s *Store) unlock() (tink.AEAD, error) {
	check, isNew, err := s.readCheck()
	if err != nil {
		return nil, err
	}
	key, err := s.keys.read()
	missing := errors.Is(err, os.ErrNotExist)
	if missing && !isNew {
		return nil, fmt.Errorf("%w: %s does not exist, and without it %s cannot be read: "+
			"restore the key file from a backup; or, to start without any connections, move the database away",
			ErrKeyMissing, s.keys.path, s.db.path)
	}
	if missing {
		key, err = createKey(s.keys.path)
	}
	if err != nil {
		return nil, err
	}
	if isNew {
		s.db.stamp = stamp{tx: s.db.committed.Load(), seen: true}
		s.db.stampedFrom = s.db.stamp.tx + 1
		err := s.db.update(func(tx *bolt.Tx, _ *boltfile.Tree) ([]change, error) { return nil, createBuckets(tx, key) })
		if err != nil {
			return nil, fmt.Errorf("writing %s: %w", s.db.path, err)
		}
		return key, nil
	}
	if _, err := key.Decrypt(check, checkData); err != nil {
		decrypts, err := s.db.decryptsARecord(key)
		if err != nil {
			return nil, err
		}
		if !decrypts {
			return nil, s.keys.mismatch(s.dir)
		}
		// Only the check value is damaged. If it cannot be replaced, it is found again next time.
		if err := s.db.update(func(tx *bolt.Tx, _ *boltfile.Tree) ([]change, error) { return nil, createBuckets(tx, key) }); err == nil {
			s.db.mended(errCheckDamaged)
		}
	}
	return key, nil
}

const errCheckDamaged = contradiction("the check value of the key is damaged")

// decryptsARecord reports whether any record decrypts. An error means that some cannot be read.
func (d *database) decryptsARecord(key tink.AEAD) (decrypts bool, err error) {
	err = d.view(func(root *boltfile.Tree) error {
		b, err := openBuckets(root)
		if err == nil {
			decrypts, err = b.anyDecrypts(key)
		}
		return err
	})
	return decrypts, err
}

// anyDecrypts reports whether any record decrypts. An error means that some cannot be read, and
// the others do not decrypt.
func (b buckets) anyDecrypts(key tink.AEAD) (bool, error) {
	scan := &scanner{key: key}
	var damage error
	for e, err := range b.records.All(nil) {
		var found stored
		if err == nil {
			found, err = b.get(e.Key)
		}
		if err != nil {
			damage = err
			continue
		}
		if scan.fits(e.Key, e.Value, found.rev) {
			return true, nil
		}
	}
	return false, damage
}

// mismatch returns the error for a key that belongs to another database.
func (k keySource) mismatch(dir string) error {
	return fmt.Errorf("%w: %s was not encrypted with %s: %s",
		ErrKeyMismatch, filepath.Join(dir, databaseName), k, k.remedy())
}

// readCheck returns the check value, and whether the database has never been written to.
func (s *Store) readCheck() (check []byte, isNew bool, err error) {
	err = s.db.view(func(root *boltfile.Tree) error {
		meta, err := root.Bucket(metaBucket)
		if err != nil {
			return err
		}
		if meta == nil {
			// bbolt's first two transactions make an empty file.
			if isNew = s.db.committed.Load() <= 1; !isNew {
				return contradiction(fmt.Sprintf("the bucket %q is missing", metaBucket))
			}
			return nil
		}
		if check, err = meta.Get(checkKey); err == nil && check == nil {
			err = contradiction("the check value of the key is missing")
		}
		return err
	})
	return check, isNew, err
}

// createBuckets makes a new database one that belongs to key.
func createBuckets(tx *bolt.Tx, key tink.AEAD) error {
	check, err := key.Encrypt([]byte("token-broker"), checkData)
	if err != nil {
		return err
	}
	for _, name := range [][]byte{recordBucket, revisionBucket, metaBucket} {
		if _, err := tx.CreateBucketIfNotExists(name); err != nil {
			return err
		}
	}
	return tx.Bucket(metaBucket).Put(checkKey, check)
}
