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
// the page has an earlier state, and everything that it points to may still be readable. Each transaction
// writes the stamp into [metaBucket], which is small enough to be part of the root page. The
// number of the last transaction is in the header, which has a checksum.
//
// Earlier releases do not change the stamp. So a stamp of an earlier transaction has one of two
// causes. An earlier release has changed the file: then the sum differs. Or the root page is too old:
// then it contradicts the list of free pages, unless that is too old as well and the sum matches.
type stamp struct {
	tx      uint64
	sum     uint64         // of all revisions; see revisionSum
	changed []changedStamp // what the transaction has changed
	seen    bool           // the file has a stamp
}

// A changedStamp is the trace that a changed connection leaves in the stamp.
type changedStamp struct {
	key uint64          // keySum of the connection
	rev record.Revision // its new one, 0 if it was deleted
}

// stampKey is the stamp's key in metaBucket.
var stampKey = []byte("state")

// stampPair is the size of one of the stamp's pairs of numbers: transaction and sum, then each connection and
// its revision. A stamp without a changed connection has a second pair of zeros.
const stampPair = 16

func (s stamp) encode() []byte {
	b := appendPair(nil, s.tx, s.sum)
	for _, c := range s.changed {
		b = appendPair(b, c.key, uint64(c.rev))
	}
	if len(s.changed) == 0 {
		b = appendPair(b, 0, 0)
	}
	return b
}

func appendPair(b []byte, first, second uint64) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, first), second)
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
	if len(b) < 2*stampPair || len(b)%stampPair != 0 {
		return stamp{}, contradiction(fmt.Sprintf("the stamp of the root has %d bytes", len(b)))
	}
	n := func(i int) uint64 { return binary.BigEndian.Uint64(b[8*i:]) }
	s := stamp{tx: n(0), sum: n(1), seen: true}
	for i := 2; i < len(b)/8; i += 2 {
		if key := n(i); key != 0 {
			s.changed = append(s.changed, changedStamp{key, record.Revision(n(i + 1))})
		}
	}
	return s, nil
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

// A change is what a transaction does to one connection.
type change struct {
	storeKey      []byte
	before, after record.Revision // 0 is no record
}

// next returns the stamp after a transaction's changes, each of another connection.
func (s stamp) next(tx uint64, changes []change) stamp {
	next := stamp{tx: tx, sum: s.sum, seen: true}
	for _, c := range changes {
		if c.before == 0 && c.after == 0 {
			continue // it leaves no other trace
		}
		next.sum += revisionSum(c.storeKey, c.after) - revisionSum(c.storeKey, c.before)
		next.changed = append(next.changed, changedStamp{keySum(c.storeKey), c.after})
	}
	return next
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
