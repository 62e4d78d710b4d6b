package boltstore_test

import (
	"fmt"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/tokenbroker/caddy-token-broker/broker/boltstore"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// BenchmarkSaves compares saves by 32 goroutines with puts into bbolt by as many, with its Batch, in turns. The
// metric ratio is saves per second by puts per second. A slow disk is simulated: each transaction of either takes
// 5 ms longer.
func BenchmarkSaves(b *testing.B) {
	for _, sync := range []time.Duration{0, 5 * time.Millisecond} {
		b.Run(fmt.Sprintf("sync+%v", sync), func(b *testing.B) { benchmarkSaves(b, sync) })
	}
}

func benchmarkSaves(b *testing.B, sync time.Duration) {
	const writers, turn = 32, 32 * 40
	store, err := boltstore.Open(b.Context(), boltstore.Config{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	if sync > 0 {
		store.OnTransact(boltstore.SlowSync(sync))
	}
	put := rawPuts(b, writers, sync)
	save := func(i int) error {
		_, err := store.Save(b.Context(), newRecord(strconv.Itoa(i), "token"), 0)
		return err
	}
	var saves, puts time.Duration
	var saved, raw atomic.Int64
	for b.Loop() {
		saves += together(b, writers, turn, &saved, save)
		b.StopTimer()
		puts += together(b, writers, turn, &raw, put)
		b.StartTimer()
	}
	n := float64(saved.Load())
	b.ReportMetric(n/saves.Seconds(), "saves/s")
	b.ReportMetric(float64(raw.Load())/puts.Seconds(), "puts/s")
	b.ReportMetric(puts.Seconds()/saves.Seconds(), "ratio")
}

// together makes n calls, as many at a time as there are writers, and returns how long they took.
func together(b *testing.B, writers, n int, next *atomic.Int64, call func(i int) error) time.Duration {
	b.Helper()
	begin := time.Now()
	var wait sync.WaitGroup
	for range writers {
		wait.Go(func() {
			for range n / writers {
				if err := call(int(next.Add(1))); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wait.Wait()
	return time.Since(begin)
}

// rawPuts opens a bbolt database of its own. The function puts a value as long as a stored record.
func rawPuts(b *testing.B, writers int, sync time.Duration) func(i int) error {
	b.Helper()
	db, err := bolt.Open(filepath.Join(b.TempDir(), "raw.db"), 0o600, &bolt.Options{FreelistType: bolt.FreelistMapType})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = db.Close() })
	db.MaxBatchSize = writers // or a batch waits for the end of a delay
	bucket := []byte("records")
	if err := db.Update(func(tx *bolt.Tx) error { _, err := tx.CreateBucket(bucket); return err }); err != nil {
		b.Fatal(err)
	}
	encoded, err := record.Encode(newRecord("1", "token"))
	if err != nil {
		b.Fatal(err)
	}
	var slept atomic.Int64 // the last transaction that did
	return func(i int) error {
		return db.Batch(func(tx *bolt.Tx) error {
			if id := int64(tx.ID()); sync > 0 && slept.Swap(id) != id {
				time.Sleep(sync)
			}
			return tx.Bucket(bucket).Put([]byte(strconv.Itoa(i)), encoded)
		})
	}
}
