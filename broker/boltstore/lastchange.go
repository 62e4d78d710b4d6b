package boltstore

import (
	"bytes"
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

// after returns the revisions that were assigned after the given one.
func (s *scanner) after(last record.Revision) map[string]record.Revision {
	later := make(map[string]record.Revision)
	for storeKey, rev := range s.revisions() {
		if rev > last {
			later[storeKey] = max(rev, later[storeKey])
		}
	}
	return later
}

// restoreLastChange is for a database of whose header one copy is damaged. If that was the newer
// one, the last change is missing from the database. But its pages are still in the file, as nothing
// was written since.
func (s *Store) restoreLastChange() error {
	info, err := s.db.raw.Stat()
	if err != nil {
		return err
	}
	var last record.Revision
	err = s.db.view(func(root *boltfile.Tree) error {
		records, err := openBucket(root, recordBucket)
		if err == nil {
			last = record.Revision(records.Sequence)
		}
		return err
	})
	if err != nil {
		return err
	}
	scan := &scanner{file: s.db.file, size: info.Size(), key: s.aead}
	later := scan.after(last)
	mended := s.db.faults.readOnly() == nil && len(later) <= 1
	for storeKey, rev := range later {
		if ciphertext := scan.ciphertext([]byte(storeKey), rev); mended && ciphertext != nil {
			err = s.restore([]byte(storeKey), ciphertext, rev)
		} else {
			mended = false
		}
	}
	if err != nil {
		return err
	}
	if mended {
		s.db.mended(s.db.oldHeader)
		return nil
	}
	s.suspects = make(map[string]bool)
	for storeKey := range later {
		s.suspects[storeKey] = true
	}
	_ = s.db.faults.forbidWrites(s.db.damaged(fmt.Errorf("%w; the last change of %d connections may be lost", s.db.oldHeader, len(later))))
	return nil
}

func (s *Store) restore(storeKey, ciphertext []byte, rev record.Revision) error {
	return s.db.update(func(tx *bolt.Tx, root *boltfile.Tree) error {
		b, err := openBuckets(root)
		if err == nil {
			_, err = b.get(storeKey)
		}
		if err != nil {
			return err
		}
		records := tx.Bucket(recordBucket)
		if err := records.SetSequence(uint64(rev)); err != nil {
			return err
		}
		if err := tx.Bucket(revisionBucket).Put(storeKey, encodeRevision(rev)); err != nil {
			return err
		}
		return records.Put(storeKey, ciphertext)
	})
}
