package boltstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/tokenbroker/caddy-token-broker/broker/boltstore/internal/boltfile"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// A stamp tells which state a root page belongs to. bbolt's pages do not: if the disk loses a write,
// the page has an earlier state, and everything that it points to may still be readable. Each change
// writes the stamp into [metaBucket], which is small enough to be part of the root page. The
// transaction of the last state is in the header, which has a checksum.
//
// Earlier releases do not change the stamp. So a stamp of an earlier transaction has one of two
// causes. An earlier release has changed the file: then the sum differs. Or the root page is too old:
// then it contradicts the list of free pages, unless that is too old as well and the sum matches.
type stamp struct {
	tx   uint64
	sum  uint64          // of all revisions; see revisionSum
	key  uint64          // keySum of the changed connection, 0 if none
	rev  record.Revision // its new one, 0 if it was deleted
	seen bool            // the file has a stamp
}

// stampKey is the stamp's key in metaBucket.
var stampKey = []byte("state")

const stampSize = 32

func (s stamp) encode() []byte {
	var b []byte
	for _, n := range []uint64{s.tx, s.sum, s.key, uint64(s.rev)} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	return b
}

// readStamp returns the zero stamp if there is none.
func readStamp(root *boltfile.Tree) (stamp, error) {
	bucket, err := root.Bucket(metaBucket)
	if err != nil || bucket == nil {
		return stamp{}, err
	}
	return stampIn(bucket)
}

func stampIn(bucket *boltfile.Tree) (stamp, error) {
	b, err := bucket.Get(stampKey)
	if err != nil || b == nil {
		return stamp{}, err
	}
	if len(b) != stampSize {
		return stamp{}, contradiction(fmt.Sprintf("the stamp of the root has %d bytes", len(b)))
	}
	n := func(i int) uint64 { return binary.BigEndian.Uint64(b[8*i:]) }
	return stamp{tx: n(0), sum: n(1), key: n(2), rev: record.Revision(n(3)), seen: true}, nil
}

// readStamp reads the stamp of the open database.
func (s *Store) readStamp() error {
	err := s.db.view(func(root *boltfile.Tree) (err error) {
		s.db.stamp, err = readStamp(root)
		return err
	})
	s.db.stampedFrom = math.MaxUint64
	if last := s.db.committed.Load(); s.db.relisted && s.db.stamp.seen && s.db.stamp.tx+1 == last {
		s.db.stamp.tx, s.db.stampedFrom = last, last+1
		return err
	}
	if s.db.stamped() {
		s.db.stampedFrom = s.db.stamp.tx
	}
	if errors.Is(err, ErrDamaged) {
		return nil // verify finds it again
	}
	return err
}

// proves reports whether a tree of buckets is the state after tx, by the stamp of tx.
func (s stamp) proves(tx uint64, root *boltfile.Tree) bool {
	b, err := openBuckets(root)
	if err != nil || s.tx != tx {
		return false
	}
	sum, damage := b.sum()
	return len(damage) == 0 && sum == s.sum
}

// A change is what a transaction does to one connection. The zero value changes none.
type change struct {
	storeKey      []byte
	before, after record.Revision // 0 is no record
}

// next returns the stamp after a change.
func (s stamp) next(tx uint64, c change) stamp {
	s.tx, s.key, s.rev, s.seen = tx, 0, c.after, true
	if c.storeKey != nil {
		s.key = keySum(c.storeKey)
		s.sum += revisionSum(c.storeKey, c.after) - revisionSum(c.storeKey, c.before)
	}
	return s
}

// revisionSum is the contribution of a revision to the sum of all, 0 without a record.
func revisionSum(storeKey []byte, rev record.Revision) uint64 {
	if rev == 0 {
		return 0
	}
	return mix(keySum(storeKey) ^ mix(uint64(rev)))
}

// keySum is FNV-1a, mixed so that sums of several do not cancel each other out.
func keySum(storeKey []byte) uint64 {
	h := uint64(14695981039346656037)
	for _, b := range storeKey {
		h = (h ^ uint64(b)) * 1099511628211
	}
	return mix(h)
}

// mix is the finalizer of MurmurHash3.
func mix(h uint64) uint64 {
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}
