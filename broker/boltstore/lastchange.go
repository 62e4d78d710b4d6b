package boltstore

import (
	"bytes"
	"errors"
	"fmt"
	"iter"

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

// ciphertext returns the record that was saved under a key as a revision, nil if it is not found.
func (s *scanner) ciphertext(storeKey []byte, rev record.Revision) []byte {
	for e := range s.file.Scan(s.size) {
		if bytes.Equal(e.Key, storeKey) && s.fits(storeKey, e.Value, rev) {
			return e.Value
		}
	}
	return nil
}

// fits reports whether a ciphertext is the record that was saved under a key as a revision.
func (s *scanner) fits(storeKey, ciphertext []byte, rev record.Revision) bool {
	_, err := s.key.Decrypt(ciphertext, associatedData(storeKey, rev))
	return err == nil
}

// changes are those that followed a state, as far as can be seen.
type changes struct {
	revs    map[string]record.Revision // by encoded key; 0 is a deletion
	unknown uint64                     // keySum of a connection whose new state is not found, 0 is none
}

func (c changes) has(storeKey []byte) bool {
	_, ok := c.revs[string(storeKey)]
	return ok || c.unknown != 0 && c.unknown == keySum(storeKey)
}

// after returns the changes that followed a state: its transaction, its last revision, and its revisions.
// A change leaves two traces: its root page's stamp, and a revision.
func (s *scanner) after(tx uint64, last record.Revision, revisions *boltfile.Tree) changes {
	c := changes{revs: make(map[string]record.Revision)}
	for storeKey, rev := range s.revisions() {
		if rev > last {
			c.revs[storeKey] = max(rev, c.revs[storeKey])
		}
	}
	for root := range s.file.Roots(s.size, string(recordBucket)) {
		next, err := readStamp(root)
		if err != nil || next.tx <= tx || next.key == 0 {
			continue
		}
		if next.rev == 0 && revisions != nil {
			for e, err := range revisions.All(nil) {
				if err == nil && keySum(e.Key) == next.key {
					c.revs[string(e.Key)] = 0
				}
			}
		}
		if !c.explain(next) {
			c.unknown = next.key
		}
	}
	return c
}

// explain reports whether the change that wrote a stamp is among those found.
func (c changes) explain(s stamp) bool {
	for storeKey, rev := range c.revs {
		if rev == s.rev && keySum([]byte(storeKey)) == s.key {
			return true
		}
	}
	return false
}

// restoreLastChange is for a database of whose header one copy is damaged. If that was the newer
// one, the last change is missing from the database. But its pages are still in the file, as nothing
// was written since.
func (s *Store) restoreLastChange() error {
	info, err := s.db.raw.Stat()
	if err != nil {
		return err
	}
	scan := &scanner{file: s.db.file, size: info.Size(), key: s.aead}
	var later changes
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
	mended := s.db.faults.readOnly() == nil && len(later.revs) <= 1 && later.unknown == 0
	for storeKey, rev := range later.revs {
		ciphertext := scan.ciphertext([]byte(storeKey), rev)
		if mended = mended && (rev == 0 || ciphertext != nil); mended {
			err = s.restore([]byte(storeKey), ciphertext, rev)
		}
	}
	if err != nil {
		return err
	}
	if mended {
		s.db.mended(s.db.oldHeader)
		return nil
	}
	for storeKey := range later.revs {
		s.suspect(storeKey)
	}
	if later.unknown != 0 {
		s.suspects[later.unknown] = true
	}
	_ = s.db.faults.forbidWrites(s.db.damaged(fmt.Errorf("%w; the last change of %d connections may be lost", s.db.oldHeader, len(s.suspects))))
	return nil
}

// restore saves a record again as a revision, or deletes it if that is 0.
func (s *Store) restore(storeKey, ciphertext []byte, rev record.Revision) error {
	return s.db.update(func(tx *bolt.Tx, root *boltfile.Tree) (change, error) {
		b, err := s.db.buckets(root)
		if err != nil {
			return change{}, err
		}
		if rev == 0 {
			return b.remove(tx, storeKey)
		}
		before, err := b.get(storeKey)
		if err != nil {
			return change{}, err
		}
		records := tx.Bucket(recordBucket)
		return change{storeKey, before.rev, rev}, errors.Join(records.SetSequence(uint64(rev)),
			tx.Bucket(revisionBucket).Put(storeKey, encodeRevision(rev)), records.Put(storeKey, ciphertext))
	})
}
