package boltstore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/tokenbroker/caddy-token-broker/broker/boltstore/internal/boltfile"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/keyfile"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/internal/syncdir"
)

// rekeyedName is the name of a database that is being encrypted with another key.
const rekeyedName = databaseName + ".rekey"

// Rekey encrypts the store of config with the key of next, which has the same directory, and
// destroys the old key. If both have the same key file, it makes a new key there. No other process
// may use the store. It returns how many records there are. Errors: those of [Open], and
// [ErrDamaged] for a store with damage.
//
// A crash at any point leaves a store that opens with one of the two configurations, and Rekey can
// be called again. The steps are
//
//  1. the new key is made. In the same file as the old one: then the file has both
//  2. all records are encrypted with it in another file
//  3. that file takes the place of the database
//  4. the old key is destroyed
func Rekey(ctx context.Context, config, next Config) (records int, err error) {
	r := &rekeying{}
	if r.from, r.to, err = sources(&config, &next); err != nil {
		return 0, fmt.Errorf("changing the key: %w", err)
	}
	r.store, err = Open(ctx, config)
	if errors.Is(err, ErrKeyMismatch) || errors.Is(err, ErrKeyMissing) {
		return r.resume(ctx, next, err)
	}
	if err != nil {
		return 0, fmt.Errorf("changing the key: %w", err)
	}
	defer func() { err = errors.Join(err, r.store.Close()) }()
	if err := r.store.Check(ctx); err != nil {
		return 0, fmt.Errorf("changing the key: repair the store first: %w", err)
	}
	key, err := r.newKey()
	if err != nil {
		return 0, fmt.Errorf("making a key for the embedded store: %w", err)
	}
	if err := r.checkNew(key); err != nil {
		return 0, fmt.Errorf("changing the key: %w", err)
	}
	if err := r.encrypt(ctx, key); err != nil {
		return 0, fmt.Errorf("changing the key of the embedded store in %s: %w", r.store.dir, err)
	}
	return r.records, r.destroyOld()
}

// sources returns where the old key comes from and the new one.
func sources(config, next *Config) (from, to keySource, err error) {
	dir, err := filepath.EvalSymlinks(config.Dir)
	if err == nil {
		_, err = os.Stat(filepath.Join(dir, databaseName))
	}
	if errors.Is(err, os.ErrNotExist) {
		err = fmt.Errorf("%w: %w", ErrDatabaseMissing, err)
	}
	if err != nil {
		return from, to, err
	}
	if from, err = config.source(dir); err != nil {
		return from, to, err
	}
	if to, err = next.source(dir); err != nil {
		return from, to, err
	}
	if err := errors.Join(from.resolve(), to.resolve()); err != nil {
		return from, to, err
	}
	if from.given != nil && to.given != nil && config.Key.Equal(next.Key) || from.path != to.path && isSameFile(from.path, to.path) {
		err = errOldKey
	}
	return from, to, err
}

// errOldKey protects the only key: as the old one, it would be destroyed.
var errOldKey = errors.New("the new key of the embedded store is the old one")

// isSameFile reports whether two paths name one file.
func isSameFile(a, b string) bool {
	infoA, errA := os.Stat(a)
	infoB, errB := os.Stat(b)
	return errA == nil && errB == nil && os.SameFile(infoA, infoB)
}

// A rekeying is one call of [Rekey].
type rekeying struct {
	from, to keySource
	store    *Store
	records  int
}

// resume ends a change of key that was broken off after the database was replaced.
func (r *rekeying) resume(ctx context.Context, next Config, cause error) (int, error) {
	if r.from.path == r.to.path && r.to.given == nil {
		return 0, cause
	}
	store, err := Open(ctx, next)
	if err != nil {
		return 0, cause
	}
	err = store.db.view(func(root *boltfile.Tree) error {
		b, err := store.db.buckets(root)
		if err != nil {
			return err
		}
		for _, err := range b.revisions.All(nil) {
			if err != nil {
				return err
			}
			r.records++
		}
		return nil
	})
	return r.records, errors.Join(err, r.destroyOld(), store.Close())
}

// newKey returns the new key alone.
func (r *rekeying) newKey() (tink.AEAD, error) {
	switch {
	case r.to.given != nil:
		return r.to.given, nil
	case r.to.path == r.from.path:
		return keyfile.BeginRotation(r.to.path)
	default: // it is there if an earlier call made it
		return keyfile.Create(r.to.path)
	}
}

// checkNew returns an error if the database is encrypted with the new key already, so that the new
// key is a copy of the old one. After a crash that is so for a key in the same file.
func (r *rekeying) checkNew(key tink.AEAD) error {
	if r.to.path != "" && r.to.path == r.from.path {
		return nil
	}
	return r.store.db.view(func(root *boltfile.Tree) error {
		b, err := r.store.db.buckets(root)
		if err != nil {
			return err
		}
		for e, err := range b.records.All(nil) {
			if err != nil {
				return err
			}
			found, err := b.get(e.Key)
			if err != nil {
				return err
			}
			if _, err := key.Decrypt(found.ciphertext, associatedData(e.Key, found.rev)); err == nil {
				return errOldKey
			}
			return nil // one record tells
		}
		return nil
	})
}

// encrypt replaces the database by one that is encrypted with key. Revisions stay, so that a key
// and its revision still name one state.
func (r *rekeying) encrypt(ctx context.Context, key tink.AEAD) error {
	path := filepath.Join(r.store.dir, rekeyedName)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err // of an earlier call
	}
	w, err := newRebuild(path, key)
	if err != nil {
		return err
	}
	var last record.Revision
	err = r.store.db.view(func(root *boltfile.Tree) error {
		b, err := r.store.db.buckets(root)
		if err != nil {
			return err
		}
		last = record.Revision(b.records.Sequence)
		return r.copy(ctx, b, w, key)
	})
	if err := w.finish(last, err); err != nil {
		return err
	}
	if runtime.GOOS == "windows" { // an open file cannot be replaced there
		if err := r.store.Close(); err != nil {
			return err
		}
	}
	if err := os.Rename(path, r.store.db.path); err != nil {
		return err
	}
	return syncdir.Sync(r.store.dir)
}

// copy encrypts all records.
func (r *rekeying) copy(ctx context.Context, b buckets, w *rebuild, key tink.AEAD) error {
	for e, err := range b.records.All(nil) {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		found, err := b.get(e.Key)
		if err != nil {
			return err
		}
		ad := associatedData(e.Key, found.rev)
		plaintext, err := r.store.aead.Decrypt(found.ciphertext, ad)
		if err != nil {
			return contradiction(name(e.Key) + " does not decrypt")
		}
		if found.ciphertext, err = key.Encrypt(plaintext, ad); err != nil {
			return err
		}
		if err := w.put(e.Key, found); err != nil {
			return err
		}
		r.records++
	}
	return nil
}

// destroyOld destroys the old key, if it is in a file.
func (r *rekeying) destroyOld() error {
	var err error
	switch {
	case r.from.given != nil:
	case r.from.path == r.to.path:
		err = keyfile.EndRotation(r.from.path)
	default:
		err = keyfile.Destroy(r.from.path)
	}
	if err != nil {
		return fmt.Errorf("the embedded store has a new key, and the old one could not be destroyed: %w", err)
	}
	return nil
}
