package boltstore

import (
	"fmt"
	"iter"
	"maps"

	"github.com/tink-crypto/tink-go/v2/tink"
	bolt "go.etcd.io/bbolt"

	"github.com/tokenbroker/caddy-token-broker/broker/boltstore/internal/boltfile"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// A scanner looks for records in all pages, those too that the last state of the database does
// not contain.
type scanner struct {
	file *boltfile.File
	size int64 // of the file
	key  tink.AEAD
}

// revisions yields each revision of a record that is found.
func (s *scanner) revisions() iter.Seq2[string, record.Revision] {
	return func(yield func(string, record.Revision) bool) {
		for e := range s.file.Scan(s.size) {
			if len(e.Value) != 8 {
				continue
			}
			rev, err := decodeRevision(e.Value)
			if err != nil {
				continue
			}
			if _, err := decodeKey(e.Key); err == nil && !yield(string(e.Key), rev) {
				return
			}
		}
	}
}

// records returns those that were saved as the given revisions, as far as they are found.
func (s *scanner) records(revs map[string]record.Revision) map[string]stored {
	found := make(map[string]stored)
	for e := range s.file.Scan(s.size) {
		storeKey := string(e.Key)
		if rev := revs[storeKey]; rev != 0 && found[storeKey].rev == 0 && s.fits(e.Key, e.Value, rev) {
			found[storeKey] = stored{e.Value, rev}
		}
	}
	return found
}

// fits reports whether a ciphertext is the record that was saved under a key as a revision.
func (s *scanner) fits(storeKey, ciphertext []byte, rev record.Revision) bool {
	_, err := s.key.Decrypt(ciphertext, associatedData(storeKey, rev))
	return err == nil
}

// lostChanges are those that followed a state, as far as can be seen.
type lostChanges struct {
	revs    map[string]record.Revision // by encoded key; 0 is a deletion
	unknown map[uint64]bool            // keySum of connections whose new state is not found
	listed  bool                       // a stamp lists revs
}

func (c lostChanges) has(storeKey []byte) bool {
	_, ok := c.revs[string(storeKey)]
	return ok || len(c.unknown) > 0 && c.unknown[keySum(storeKey)]
}

// complete reports whether these are all changes of one transaction. Without its stamp that is known of a
// single one: others may have left no trace.
func (c lostChanges) complete() bool {
	return len(c.unknown) == 0 && (len(c.revs) <= 1 || c.listed)
}

// after returns the changes that followed a state: its transaction, its last revision, and its revisions.
// A change leaves two traces: its root page's stamp, and a revision.
func (s *scanner) after(tx uint64, last record.Revision, revisions *boltfile.Tree) lostChanges {
	c := lostChanges{revs: make(map[string]record.Revision), unknown: make(map[uint64]bool)}
	for storeKey, rev := range s.revisions() {
		if rev > last {
			c.revs[storeKey] = max(rev, c.revs[storeKey])
		}
	}
	roots := 0
	for root := range s.file.Roots(s.size, string(recordBucket)) {
		next, err := readStamp(root)
		if err != nil || next.tx <= tx || len(next.changed) == 0 {
			continue
		}
		c.addDeletions(next, revisions)
		roots++
		c.listed = roots == 1 && len(next.changed) == len(c.revs)
		for _, changed := range next.changed {
			if !c.explain(changed) {
				c.unknown[changed.key] = true
			}
		}
	}
	return c
}

// addDeletions adds the connections that a stamp says were deleted.
func (c lostChanges) addDeletions(s stamp, revisions *boltfile.Tree) {
	deleted := make(map[uint64]bool)
	for _, changed := range s.changed {
		if changed.rev == 0 {
			deleted[changed.key] = true
		}
	}
	if len(deleted) == 0 || revisions == nil {
		return
	}
	for e, err := range revisions.All(nil) {
		if err == nil && deleted[keySum(e.Key)] {
			c.revs[string(e.Key)] = 0
		}
	}
}

// explain reports whether a change that a stamp lists is among those found.
func (c lostChanges) explain(changed changedStamp) bool {
	for storeKey, rev := range c.revs {
		if rev == changed.rev && keySum([]byte(storeKey)) == changed.key {
			return true
		}
	}
	return false
}

// restoreLastChanges is for a database of whose header one copy is damaged. If that was the newer
// one, the changes of the last transaction are missing from the database. But their pages are still in the
// file, as nothing was written since.
func (s *Store) restoreLastChanges() error {
	info, err := s.db.raw.Stat()
	if err != nil {
		return err
	}
	scan := &scanner{file: s.db.file, size: info.Size(), key: s.aead}
	var later lostChanges
	err = s.db.view(func(root *boltfile.Tree) error {
		b, err := s.db.buckets(root)
		if err == nil {
			later = scan.after(s.db.committed.Load(), record.Revision(b.records.Sequence), b.revisions)
		}
		return err
	})
	if err != nil {
		return err
	}
	if s.db.faults.readOnly() == nil && later.complete() {
		restored, err := s.restore(scan, later.revs)
		if err != nil {
			return err
		}
		if restored {
			s.db.mended(s.db.oldHeader)
			return nil
		}
	}
	for storeKey := range later.revs {
		s.suspect(storeKey)
	}
	maps.Copy(s.suspects, later.unknown)
	_ = s.db.faults.forbidWrites(s.db.damaged(fmt.Errorf("%w; the last change of %d connections may be lost", s.db.oldHeader, len(s.suspects))))
	return nil
}

// restore saves records again as their revisions, and deletes those of revision 0, in one transaction: it
// overwrites the pages in which they were found. Unless all were found, it does nothing.
func (s *Store) restore(scan *scanner, revs map[string]record.Revision) (restored bool, err error) {
	found := scan.records(revs)
	for storeKey, rev := range revs {
		switch _, ok := found[storeKey]; {
		case rev == 0:
			found[storeKey] = stored{}
		case !ok:
			return false, nil
		}
	}
	if len(found) == 0 {
		return true, nil
	}
	return true, s.db.update(func(tx *bolt.Tx, root *boltfile.Tree) ([]change, error) {
		b, err := s.db.buckets(root)
		if err != nil {
			return nil, err
		}
		g := &group{store: s, tx: tx, before: b, index: make(map[string]int)}
		for storeKey, found := range found {
			if err := g.restore([]byte(storeKey), found); err != nil {
				return nil, err
			}
		}
		return g.changes, nil
	})
}

// restore saves a record again as its revision, or deletes it if that is 0.
func (g *group) restore(storeKey []byte, s stored) error {
	if s.rev == 0 {
		before, err := g.before.deleted(storeKey)
		if err != nil {
			return err
		}
		return g.delete(storeKey, before)
	}
	before, err := g.before.get(storeKey)
	if err != nil {
		return err
	}
	return g.save(storeKey, before.rev, s)
}
