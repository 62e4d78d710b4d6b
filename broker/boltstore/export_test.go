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

// Waiting returns how many changes wait for the next groups.
func (s *Store) Waiting() int {
	s.changes.mu.Lock()
	defer s.changes.mu.Unlock()
	return len(s.changes.waiting)
}

// Writing reports whether a group is written, or about to be.
func (s *Store) Writing() bool {
	s.changes.mu.Lock()
	defer s.changes.mu.Unlock()
	return s.changes.writing
}

// Closing reports whether Close was called.
func (s *Store) Closing() bool {
	s.changes.mu.Lock()
	defer s.changes.mu.Unlock()
	return s.changes.closed
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
