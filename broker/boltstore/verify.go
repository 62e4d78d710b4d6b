package boltstore

import (
	"bytes"
	"context"
	"errors"

	bolt "go.etcd.io/bbolt"

	"github.com/tokenbroker/caddy-token-broker/broker/boltstore/internal/boltfile"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// errOlderState means that a part of the file is of an earlier state, and that the affected connections are unknown.
const errOlderState = contradiction("a part of it is of an earlier state: some connections may have a token that is spent")

// verify proves that the database is in the state of the last change. Then an error of the disk, such as a lost write,
// costs only the connections on that page. Without the proof, the store reads nothing.
// verify reads all revisions, but records only if a revision is in doubt.
func (s *Store) verify(ctx context.Context) error {
	d := s.db
	if d.stamp.tx != d.committed.Load() && d.doubt != nil {
		_ = d.faults.breakWith(d.damaged(errors.Join(errOlderState, d.doubt)))
		return nil //nolint:nilerr // each read returns it
	}
	var sum uint64
	whole := true
	err := d.view(func(root *boltfile.Tree) error {
		b, err := d.buckets(root)
		if err != nil {
			return err
		}
		var damage []error
		sum, damage = b.sum()
		for _, err := range damage {
			_ = d.explain(err)
		}
		whole = len(damage) == 0
		if whole && !d.stamped() {
			return b.sameKeys()
		}
		return nil
	})
	switch {
	case (err != nil || !whole) && d.stamp.seen && !d.stamped():
		_ = d.faults.breakWith(d.damaged(errors.Join(errOlderState, err)))
		return nil
	case err != nil || !whole && !d.stamped():
		return nil //nolint:nilerr // it was reported, and nothing can prove the rest
	case !whole:
		return s.findOlder(ctx)
	case d.stamp.seen && d.stamp.tx < d.committed.Load() && d.stamp.sum == sum: // changes left no trace
		_ = d.faults.breakWith(d.damaged(errOlderState))
		return nil
	case !d.stamped():
		d.stamp = stamp{tx: d.committed.Load(), sum: sum, seen: true}
		d.stampedFrom = d.stamp.tx + 1
	case d.stamp.sum != sum:
		return s.findOlder(ctx)
	}
	s.proven = true
	if d.relisted { // without a new stamp, this looks like a change that left no trace
		return d.update(func(*bolt.Tx, *boltfile.Tree) ([]change, error) { return nil, nil })
	}
	return nil
}

// maxTriesAtOpen bounds the search for lost revisions to about a second.
const maxTriesAtOpen = 500_000

// sum returns the sum of all revisions, and the errors of unreadable ones.
func (b buckets) sum() (sum uint64, damage []error) {
	for e, err := range b.revisions.All(nil) {
		var rev record.Revision
		if err == nil {
			rev, err = decodeRevision(e.Value)
		}
		if err == nil && uint64(rev) > b.records.Sequence {
			err = contradiction(name(e.Key) + " has a revision that was never assigned")
		}
		if err != nil {
			damage = append(damage, err)
			continue
		}
		sum += revisionSum(e.Key, rev)
	}
	return sum, damage
}

// findOlder finds the connections that are not in the last state, if all others provably are.
func (s *Store) findOlder(ctx context.Context) error {
	info, err := s.db.raw.Stat()
	if err != nil {
		return err
	}
	v := surveyOf(s.db.file, info.Size(), s.aead)
	v.maxTries = maxTriesAtOpen
	if err := v.run(ctx, func([]byte, stored) error { return nil }); err != nil {
		return err
	}
	if !v.current() && v.tries >= v.maxTries && s.db.doubt == nil {
		return nil // unreadable pages explain the difference
	}
	if !v.current() {
		_ = s.db.faults.breakWith(s.db.damaged(errOlderState))
		return nil
	}
	for storeKey := range v.lost {
		s.suspect(storeKey)
	}
	for storeKey := range v.repaired {
		s.suspect(storeKey)
	}
	return nil
}

// suspect lets no read of the connection succeed.
func (s *Store) suspect(storeKey string) {
	s.suspects[keySum([]byte(storeKey))] = true
	s.db.faults.report(s.db.damaged(lostChange(storeKey)))
}

func lostChange(storeKey string) error {
	return contradiction("the last change of " + name([]byte(storeKey)) + " is lost")
}

// sameKeys returns an error unless each record has a revision.
func (b buckets) sameKeys() error {
	var from []byte
	for {
		keys, err := b.list(from, nil, listBatch)
		if err != nil || len(keys) < listBatch {
			return err
		}
		from = append(bytes.Clone(keys[len(keys)-1]), 0) // the smallest key greater than it
	}
}
