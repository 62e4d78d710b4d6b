package boltstore

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/tokenbroker/caddy-token-broker/broker/boltstore/internal/boltfile"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// The buckets. The sequence of recordBucket is the last revision assigned. Revisions are
// kept apart from the ciphertexts, so that an older ciphertext does not decrypt if it alone
// is restored. Each key is in both buckets or in neither: so a key that damage hides in one of them
// is not taken for a connection that does not exist.
var (
	recordBucket   = []byte("connections") // encoded key -> ciphertext
	revisionBucket = []byte("revisions")   // encoded key -> revision
	metaBucket     = []byte("meta")
	checkKey       = []byte("check")
)

// buckets are those with the records, in one state of the database.
type buckets struct {
	records, revisions *boltfile.Tree
	stamp              stamp
}

// stored is a record as it is in the database.
type stored struct {
	ciphertext []byte
	rev        record.Revision
}

func openBuckets(root *boltfile.Tree) (buckets, error) {
	names := [][]byte{recordBucket, revisionBucket, metaBucket}
	found, err := root.Buckets(names...)
	if err != nil {
		return buckets{}, err
	}
	for i, b := range found {
		if b == nil {
			return buckets{}, contradiction(fmt.Sprintf("the bucket %q is missing", names[i]))
		}
	}
	b := buckets{records: found[0], revisions: found[1]}
	b.records.Authentic = true // their ciphertexts are, and each has a revision
	b.stamp, err = stampIn(found[2])
	return b, err
}

// get returns what is stored under a key; the revision is 0 if there is nothing.
func (b buckets) get(storeKey []byte) (s stored, err error) {
	if s.ciphertext, err = b.records.Get(storeKey); err != nil {
		return stored{}, err
	}
	encoded, err := b.revisions.Get(storeKey)
	if err != nil {
		return stored{}, err
	}
	if s.rev, err = decodeRevision(encoded); err != nil {
		return stored{}, err
	}
	if (s.ciphertext == nil) != (s.rev == 0) {
		return stored{}, contradiction(name(storeKey) + " has a record without a revision, or a revision without a record")
	}
	return s, nil
}

// deleted returns the revision of a record, after it has read the pages that bbolt may change when it deletes the record.
func (b buckets) deleted(storeKey []byte) (record.Revision, error) {
	_, recordErr := b.records.GetWithSiblings(storeKey)
	encoded, err := b.revisions.GetWithSiblings(storeKey)
	if err = errors.Join(recordErr, err); err != nil {
		return 0, err
	}
	return decodeRevision(encoded)
}

// list returns up to n keys with the given prefix, beginning with from.
func (b buckets) list(from, prefix []byte, n int) ([][]byte, error) {
	keys, err := listBucket(b.records, from, prefix, n)
	if err != nil {
		return nil, err
	}
	same, err := listBucket(b.revisions, from, prefix, n)
	if err != nil {
		return nil, err
	}
	for i := range max(len(keys), len(same)) {
		if i >= len(keys) || i >= len(same) || !bytes.Equal(keys[i], same[i]) {
			return nil, contradiction("some records have no revision, or some revisions no record")
		}
	}
	return keys, nil
}

// listRevisions is list without a look at the records.
func (b buckets) listRevisions(from, prefix []byte, n int) ([][]byte, error) {
	return listBucket(b.revisions, from, prefix, n)
}

func listBucket(b *boltfile.Tree, from, prefix []byte, n int) (keys [][]byte, err error) {
	for e, err := range b.All(from) {
		if err != nil {
			return nil, err
		}
		if !bytes.HasPrefix(e.Key, prefix) {
			break
		}
		if keys = append(keys, e.Key); len(keys) == n {
			break
		}
	}
	return keys, nil
}

// name returns the name of the connection that a key stands for.
func name(storeKey []byte) string {
	key, err := decodeKey(storeKey)
	if err != nil {
		return fmt.Sprintf("the malformed key %q", storeKey)
	}
	return key.String()
}
