package boltstore_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/boltstore"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// history changes a sound store further, and returns the file before each transaction. Each has so many changes.
func (s *sound) history(t *testing.T, random *rand.Rand, lastDeletes bool, perGroup int) (earlier [][]byte) {
	t.Helper()
	dir := s.with(t, s.database())
	const transactions = 12
	for i := range transactions {
		earlier = append(earlier, s.database())
		store := openStore(t, dir)
		deletes := random.IntN(5) == 0
		deletes = deletes && i < transactions-1 || lastDeletes && i == transactions-1
		s.change(t, random, store, perGroup, deletes)
		closeStore(t, store)
		s.files["connections.db"] = readFile(t, filepath.Join(dir, "connections.db"))
	}
	return earlier
}

// change makes n changes in one transaction. The last one may be a deletion.
func (s *sound) change(t *testing.T, random *rand.Rand, store *boltstore.Store, n int, lastDeletes bool) {
	t.Helper()
	consumers := slices.Sorted(maps.Keys(s.contents))
	revs := make(map[string]record.Revision)
	for _, consumer := range consumers {
		_, rev, err := store.Load(t.Context(), key(consumer))
		if err != nil {
			t.Fatal(err)
		}
		revs[consumer] = rev
	}
	chosen := random.Perm(len(consumers))[:n]
	h := &held{t: t, store: store}
	if n > 1 {
		h = hold(t, store)
	}
	var results []*result
	for i, c := range chosen {
		consumer := consumers[c]
		if lastDeletes && i == n-1 {
			results = append(results, h.delete(consumer))
			delete(s.contents, consumer)
			continue
		}
		s.contents[consumer] = fmt.Sprintf("changed-%d%s", random.Int(), strings.Repeat("-", random.IntN(2)*5000))
		results = append(results, h.save(t.Context(), newRecord(consumer, s.contents[consumer]), revs[consumer]))
	}
	h.finish()
	for _, r := range results {
		if r.err != nil {
			t.Fatal(r.err)
		}
	}
}

// A disk may report a write and keep the old page. Then every page is readable, and any page but the
// header's may be of an earlier state.
func TestPagesThatWereNeverWrittenAreFound(t *testing.T) {
	t.Parallel()
	for seed := range uint64(8) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(seed, 7))
			s := soundStore(t)
			earlier := s.history(t, random, seed%2 == 0, 1+int(seed/4)*5)
			for range 8 {
				from := random.IntN(len(earlier))
				damaged, pages := s.database(), []string(nil)
				for page := 2; page < min(len(damaged), len(earlier[from]))/pageSize; page++ {
					now, then := damaged[page*pageSize:][:pageSize], earlier[from][page*pageSize:][:pageSize]
					if !bytes.Equal(now, then) && random.IntN(3) > 0 {
						pages = append(pages, fmt.Sprintf("%d (%s)", page, kindOf(damaged, page)))
						copy(now, then)
					}
				}
				what := fmt.Sprintf("pages %v as before the change %d", pages, from)
				dir := s.with(t, damaged)
				o := s.wantRight(t, what, dir)
				report, err := boltstore.Check(t.Context(), boltstore.Config{Dir: s.with(t, damaged)})
				if o.err != nil && (err != nil || len(report.Damage) == 0) {
					t.Errorf("%s: Check = %+v, %v, and %v", what, report, err, o.err)
				}
				s.wantRight(t, what+", again", dir)
			}
		})
	}
}

// If the newer copy of the header and one other page are damaged, the state before the last change
// can be read without an error.
func TestLastChangeIsNotForgottenWithTheHeader(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		deleted  bool
		perGroup int
	}{{false, 1}, {true, 1}, {false, 7}, {true, 7}} {
		deleted := test.deleted
		s := soundStore(t)
		s.history(t, rand.New(rand.NewPCG(1, 1)), deleted, test.perGroup)
		whole := s.database()
		for page := range len(bytes.TrimRight(whole, "\x00"))/pageSize + 1 {
			for header := range 2 {
				damaged := bytes.Clone(whole)
				clear(damaged[header*pageSize:][:pageSize])
				if deleted && test.perGroup == 1 && isRoot(damaged, page) {
					continue // no trace of the deletion is left
				}
				clear(damaged[page*pageSize:][:pageSize])
				s.wantRight(t, fmt.Sprintf("header %d and page %d (%s) zeroed", header, page, kindOf(whole, page)), s.with(t, damaged))
			}
		}
	}
}

// isRoot reports whether a page has the tree of buckets.
func isRoot(database []byte, page int) bool {
	b := database[page*pageSize:][:pageSize]
	return kindOf(database, page) == "leaf" && bytes.Contains(b, []byte("connections")) && bytes.Contains(b, []byte("revisions"))
}

// The root page gets the content of each earlier root page that is still in the file.
func TestRootOfAnEarlierStateIsNotUsed(t *testing.T) {
	t.Parallel()
	for seed := range uint64(6) {
		s := soundStore(t)
		s.history(t, rand.New(rand.NewPCG(seed, 2)), seed%3 == 0, 1+int(seed/3)*5)
		whole := s.database()
		var roots []int
		for page := range len(whole) / pageSize {
			if isRoot(whole, page) {
				roots = append(roots, page)
			}
		}
		if len(roots) < 2 {
			continue // pages are used again at random
		}
		for _, to := range roots {
			for _, from := range roots {
				damaged := bytes.Clone(whole)
				copy(damaged[to*pageSize+8:][:pageSize-8], whole[from*pageSize+8:])
				s.wantRight(t, fmt.Sprintf("page %d with the content of %d, both roots", to, from), s.with(t, damaged))
			}
		}
	}
}

// Many changes move pages around while others read them.
func TestReadsBetweenChangesFindNoDamage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	store := openStore(t, dir)
	random := rand.New(rand.NewPCG(3, 4))
	revs := make(map[string]record.Revision)
	for i := range 600 {
		consumer := fmt.Sprintf("consumer-%0*d", 1+random.IntN(60), random.IntN(90))
		if i > 400 && random.IntN(3) > 0 || random.IntN(4) == 0 {
			if err := store.Delete(t.Context(), key(consumer)); err != nil {
				t.Fatal(err)
			}
			delete(revs, consumer)
		} else {
			revs[consumer] = save(t, store, newRecord(consumer, strings.Repeat("t", random.IntN(3000))), revs[consumer])
		}
		if i%50 == 49 {
			for k, err := range store.List(t.Context(), "", "") {
				if _, rev, loadErr := store.Load(t.Context(), k); errors.Join(err, loadErr) != nil || rev != revs[k.Consumer] {
					t.Fatalf("after %d changes: %s has revision %d, %v, %v; want %d", i, k, rev, err, loadErr, revs[k.Consumer])
				}
			}
		}
	}
	closeStore(t, store)
	if report, err := boltstore.Check(t.Context(), boltstore.Config{Dir: dir}); err != nil || len(report.Damage) > 0 || report.Readable != len(revs) {
		t.Errorf("Check = %+v, %v; want %d records", report, err, len(revs))
	}
}
