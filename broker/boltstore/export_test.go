package boltstore

import (
	"time"

	bolt "go.etcd.io/bbolt"
)

// Limits that tests know.
const (
	MaxGroup      = maxGroup
	MaxGroupBytes = maxGroupBytes
)

// Hold lets no transaction begin until release is called.
func (s *Store) Hold() (release func()) {
	s.db.writing.Lock()
	return s.db.writing.Unlock
}

// Waiting returns how many changes wait for a transaction. Of those in the held transaction's group there are none.
func (s *Store) Waiting() int {
	s.changes.mu.Lock()
	defer s.changes.mu.Unlock()
	return len(s.changes.waiting)
}

// OnTransact replaces what carries out a transaction. Set it before the store is used.
func (s *Store) OnTransact(transact func(update func(func(*bolt.Tx) error) error, do func(*bolt.Tx) error) error) {
	s.db.transact = func(do func(*bolt.Tx) error) error { return transact(s.db.bolt.Update, do) }
}

// SlowSync returns a transaction that takes as much longer as the syncs of a slow disk.
func SlowSync(delay time.Duration) func(update func(func(*bolt.Tx) error) error, do func(*bolt.Tx) error) error {
	return func(update func(func(*bolt.Tx) error) error, do func(*bolt.Tx) error) error {
		return update(func(tx *bolt.Tx) error {
			err := do(tx)
			if err == nil {
				time.Sleep(delay)
			}
			return err
		})
	}
}
