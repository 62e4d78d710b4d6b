package boltstore

import (
	"errors"

	bolt "go.etcd.io/bbolt"

	"github.com/tokenbroker/caddy-token-broker/broker/boltstore/internal/boltfile"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// A group is a transaction that writes several changes, each as if the ones before it had been committed.
type group struct {
	store   *Store
	tx      *bolt.Tx
	before  buckets // the state before the group
	changes []change
	index   map[string]int // of changes, by encoded key
}

// errUnchanged rolls a transaction back that changes nothing.
var errUnchanged = errors.New("nothing to commit")

// commit writes requests in one transaction, and sets their results. If the transaction fails, they all do.
func (s *Store) commit(requests []*request) {
	err := s.db.update(func(tx *bolt.Tx, root *boltfile.Tree) ([]change, error) {
		before, err := s.db.buckets(root)
		if err != nil {
			return nil, err
		}
		g := &group{store: s, tx: tx, before: before, index: make(map[string]int)}
		for _, r := range requests {
			if err := g.apply(r); err != nil {
				return nil, err
			}
		}
		if len(g.changes) == 0 {
			return nil, errUnchanged
		}
		return g.changes, nil
	})
	if err == nil || errors.Is(err, errUnchanged) {
		return
	}
	for _, r := range requests {
		r.saved, r.err = 0, err
	}
}

// apply carries a request out. An error of the request alone is its result; one that is returned fails the group.
func (g *group) apply(r *request) error {
	current, err := g.current(r)
	switch {
	case err != nil:
		r.err = g.store.db.explain(err)
		return nil
	case r.plaintext == nil:
		return g.delete(r.storeKey, current)
	case current != r.expected:
		r.err = record.ErrConflict
		return nil
	}
	records := g.tx.Bucket(recordBucket)
	next := record.Revision(records.Sequence() + 1)
	if next <= current {
		r.err = g.store.db.explain(contradiction("the counter of revisions went back"))
		return nil
	}
	ciphertext, err := g.store.aead.Encrypt(r.plaintext, associatedData(r.storeKey, next))
	if err != nil {
		r.err = err
		return nil //nolint:nilerr // it is the request's result
	}
	r.saved = next
	return g.save(r.storeKey, current, stored{ciphertext, next})
}

// current returns the revision that a request finds, after it has read the pages that bbolt may change.
func (g *group) current(r *request) (rev record.Revision, err error) {
	if r.plaintext == nil {
		rev, err = g.before.deleted(r.storeKey)
	} else {
		var found stored
		found, err = g.store.find(g.before, r.storeKey)
		rev = found.rev
	}
	if i, ok := g.index[string(r.storeKey)]; ok {
		rev = g.changes[i].after
	}
	return rev, err
}

// save stores a record, in place of that with the revision before.
func (g *group) save(storeKey []byte, before record.Revision, s stored) error {
	g.changed(storeKey, before, s.rev)
	records := g.tx.Bucket(recordBucket)
	return errors.Join(records.SetSequence(max(records.Sequence(), uint64(s.rev))),
		g.tx.Bucket(revisionBucket).Put(storeKey, encodeRevision(s.rev)), records.Put(storeKey, s.ciphertext))
}

// delete deletes the record with the revision before.
func (g *group) delete(storeKey []byte, before record.Revision) error {
	g.changed(storeKey, before, 0)
	return errors.Join(g.tx.Bucket(revisionBucket).Delete(storeKey), g.tx.Bucket(recordBucket).Delete(storeKey))
}

// changed notes a change. Several of one connection count as one.
func (g *group) changed(storeKey []byte, before, after record.Revision) {
	if i, ok := g.index[string(storeKey)]; ok {
		g.changes[i].after = after
		return
	}
	g.index[string(storeKey)] = len(g.changes)
	g.changes = append(g.changes, change{storeKey, before, after})
}
