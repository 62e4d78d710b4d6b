package main

import (
	"context"
	"path/filepath"

	bolt "go.etcd.io/bbolt"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// cipherOverhead is how much longer a record is once the embedded store has encrypted it, in
// bytes.
const cipherOverhead = 33

// A rawBolt uses bbolt without the broker.
type rawBolt struct {
	db    *bolt.DB
	value []byte
}

var rawBucket = []byte("records")

func openRawBolt(dir string) (*rawBolt, error) {
	encoded, err := record.Encode(newRecord(0))
	if err != nil {
		return nil, err
	}
	db, err := bolt.Open(filepath.Join(dir, "raw.db"), 0o600, &bolt.Options{FreelistType: bolt.FreelistMapType})
	if err != nil {
		return nil, err
	}
	db.MaxBatchSize = inParallel // all that can wait: a larger batch would wait for the end of a delay
	return &rawBolt{db, append(encoded, make([]byte, cipherOverhead)...)}, db.Update(func(tx *bolt.Tx) error {
		_, err := tx.CreateBucket(rawBucket)
		return err
	})
}

// put stores a value. Concurrent calls share a transaction, which is synced to disk.
func (b *rawBolt) put(_ context.Context, i int) error {
	return b.db.Batch(func(tx *bolt.Tx) error { return tx.Bucket(rawBucket).Put([]byte(consumerID(i)), b.value) })
}
