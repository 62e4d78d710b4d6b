package boltfile_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	bolt "go.etcd.io/bbolt"

	"github.com/tokenbroker/caddy-token-broker/broker/boltstore/internal/boltfile"
)

// newDatabase returns a database that random changes have made, and what it contains.
func newDatabase(t testing.TB, seed uint64, changes int) (path string, content map[string][]byte) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "test.db")
	db, err := bolt.Open(path, 0o600, &bolt.Options{PageSize: 1024, NoSync: true, FreelistType: bolt.FreelistMapType})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	random := rand.New(rand.NewPCG(seed, 0))
	content = make(map[string][]byte)
	for range changes {
		err := db.Update(func(tx *bolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists([]byte("b"))
			if err != nil {
				return err
			}
			for range random.IntN(20) {
				key := fmt.Sprintf("key-%0*d", 1+random.IntN(40), random.IntN(300))
				if random.IntN(3) == 0 {
					delete(content, key)
					err = b.Delete([]byte(key))
				} else {
					content[key] = bytes.Repeat([]byte{byte(random.Uint32())}, random.IntN(500)*random.IntN(8)/2)
					err = b.Put([]byte(key), content[key])
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return path, content
}

func TestWhatBboltWritesIsRead(t *testing.T) {
	t.Parallel()
	for seed := range uint64(12) {
		path, content := newDatabase(t, seed, 1+int(seed*seed))
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		f, err := boltfile.Open(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		s, err := f.Inspect(int64(len(b)))
		if err != nil || len(s.Problems) > 0 || s.ReadOnly != nil {
			t.Fatalf("seed %d: Inspect = %+v, %v; want no problems", seed, s, err)
		}
		bucket, err := f.Tree(s.Meta.Root, s.Meta.Pages).Bucket([]byte("b"))
		if err != nil {
			t.Fatal(err)
		}
		for key, want := range content {
			if got, err := bucket.GetWithSiblings([]byte(key)); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("seed %d: %s = %q, %v; want %q", seed, key, got, err, want)
			}
			if got, err := bucket.Get([]byte(key + "!")); err != nil || got != nil {
				t.Fatalf("seed %d: %s! = %q, %v; want nil", seed, key, got, err)
			}
		}
		entries := 0
		for e, err := range bucket.All(nil) {
			if err != nil || !bytes.Equal(content[string(e.Key)], e.Value) {
				t.Fatalf("seed %d: All yields %q, %v", seed, e.Key, err)
			}
			entries++
		}
		if entries != len(content) {
			t.Errorf("seed %d: All yields %d entries, want %d", seed, entries, len(content))
		}
	}
}

// Reading a database over which anything was written ends, and does not panic.
func FuzzAnyFileIsRead(f *testing.F) {
	var databases [4][]byte
	for seed := range databases {
		path, _ := newDatabase(f, uint64(seed), 2+4*seed)
		b, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		databases[seed] = b
		f.Add(byte(seed), uint32(seed*5000), []byte{1, 0, 2})
		f.Add(byte(seed), uint32(4096), bytes.Repeat([]byte{0xff}, 1024))
	}
	f.Fuzz(func(_ *testing.T, which byte, at uint32, patch []byte) {
		b := bytes.Clone(databases[int(which)%len(databases)])
		copy(b[int(at)%len(b):], patch)
		file, _ := boltfile.Open(bytes.NewReader(b))
		for range file.Scan(int64(len(b))) {
		}
		for range file.Roots(int64(len(b)), "b") {
		}
		s, err := file.Inspect(int64(len(b)))
		if err != nil {
			return
		}
		bucket, err := file.Tree(s.Meta.Root, s.Meta.Pages).Bucket([]byte("b"))
		if err != nil || bucket == nil {
			return
		}
		_, _ = bucket.GetWithSiblings([]byte("key-7"))
		for _, err := range bucket.All([]byte("key-")) {
			_ = err
		}
	})
}

// A database whose list of free pages is destroyed gets another, with which bbolt works on.
func TestListOfFreePagesIsReplaced(t *testing.T) {
	t.Parallel()
	for seed := range uint64(12) {
		path, content := newDatabase(t, seed, 5+int(seed*seed))
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		file, err := boltfile.Open(f)
		if err != nil {
			t.Fatal(err)
		}
		s, err := file.Inspect(info.Size())
		if err != nil || s.ReadOnly != nil {
			t.Fatal(s, err)
		}
		if _, err := f.WriteAt(make([]byte, 1024), int64(s.Meta.Freelist)*1024); err != nil {
			t.Fatal(err)
		}
		if s, err = file.Inspect(info.Size()); err != nil || s.Freelist == nil || s.ReadOnly == nil {
			t.Fatalf("seed %d: Inspect = %+v, %v; want a damaged list", seed, s, err)
		}
		if err := file.ReplaceFreelist(f, info.Size()); err != nil {
			t.Fatal(err)
		}
		db, err := bolt.Open(path, 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		wantConsistent(t, db)
		err = db.Update(func(tx *bolt.Tx) error {
			for key, want := range content {
				if got := tx.Bucket([]byte("b")).Get([]byte(key)); !bytes.Equal(got, want) {
					t.Errorf("seed %d: %s = %q, want %q", seed, key, got, want)
				}
			}
			return tx.Bucket([]byte("b")).Put([]byte("new"), []byte("value"))
		})
		if err != nil {
			t.Fatal(err)
		}
		wantConsistent(t, db)
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// wantConsistent lets bbolt check the database.
func wantConsistent(t *testing.T, db *bolt.DB) {
	t.Helper()
	err := db.View(func(tx *bolt.Tx) error {
		for err := range tx.Check() {
			t.Error(err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
