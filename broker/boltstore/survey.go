package boltstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"

	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/tokenbroker/caddy-token-broker/broker/boltstore/internal/boltfile"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// A survey goes through the whole database, reads what can be read, and looks in the pages that no
// tree leads to for the rest. It takes only records that are proven to be the current ones: an
// older one may have a refresh token that is spent.
type survey struct {
	scanner

	problems []error
	seen     map[string]bool            // texts of problems
	trees    *boltfile.Tree             // the tree of buckets, nil if there is none
	last     record.Revision            // the last revision that was assigned
	stamp    stamp                      // of trees
	revs     map[string]record.Revision // current revisions, by encoded key
	direct   int                        // how many records can be read without a repair
	repaired map[string]stored          // records that were found elsewhere, or have a revision that was
	pending  map[string][]byte          // ciphertexts that do not fit the revision, or have none
	lost     map[string]bool

	tries, maxTries int // of revisions

	// Whether pages cannot be read that may have records, or revisions. Otherwise what is missing
	// there does not exist.
	hidesRecords, hidesRevisions bool
}

// newSurvey opens the files of a store, without a lock. run is called once.
func newSurvey(dir string, keys keySource) (v *survey, closeFile func() error, err error) {
	key, err := keys.read()
	if errors.Is(err, os.ErrNotExist) {
		if _, dbErr := os.Stat(filepath.Join(dir, databaseName)); errors.Is(dbErr, os.ErrNotExist) {
			return nil, nil, fmt.Errorf("there is no embedded store in %s: it has neither %s nor %s", dir, keys, databaseName)
		}
		err = fmt.Errorf("%w: without it nothing in the database can be read: %w", ErrKeyMissing, err)
	}
	if err != nil {
		return nil, nil, err
	}
	f, err := os.Open(filepath.Join(dir, databaseName))
	if errors.Is(err, os.ErrNotExist) {
		err = fmt.Errorf("%w: %w", ErrDatabaseMissing, err)
	}
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	file, _ := boltfile.Open(f) // an error is found again by run
	return surveyOf(file, info.Size(), key), f.Close, nil
}

func surveyOf(file *boltfile.File, size int64, key tink.AEAD) *survey {
	return &survey{
		scanner: scanner{file: file, size: size, key: key}, seen: make(map[string]bool),
		revs: make(map[string]record.Revision), repaired: make(map[string]stored),
		pending: make(map[string][]byte), lost: make(map[string]bool), maxTries: maxTries,
	}
}

// run goes through the database. It calls keep with each record that can be read directly; those
// in repaired are found at the end.
func (v *survey) run(ctx context.Context, keep func(storeKey []byte, s stored) error) error {
	s, err := v.file.Inspect(v.size)
	if err != nil {
		v.problem(err)
	} else {
		v.problem(s.Header)
		for _, problem := range s.Problems {
			v.problem(problem)
		}
		v.trees = v.file.Tree(s.Meta.Root, s.Meta.Pages)
	}
	known := v.trees
	b := v.buckets(s)
	rootLost := known == nil || known != v.trees
	if b.records != nil {
		v.last = record.Revision(b.records.Sequence)
	}
	var later lostChanges
	switch {
	case rootLost && v.stamp.seen:
		later = v.after(v.stamp.tx, v.last, b.revisions)
	case rootLost:
		later = v.after(math.MaxUint64, v.last, b.revisions)
	case s.Header != nil:
		later = v.after(s.Meta.Tx, v.last, b.revisions)
	}
	if err := v.read(ctx, b, later, keep); err != nil {
		return err
	}
	v.takeLastChanges(later)
	v.repair()
	switch {
	case rootLost:
		v.problem(errLostRoot)
	case later.revs == nil && v.stamp.seen && !v.hidesRevisions && v.stamp.tx <= s.Meta.Tx && (s.Meta.Tx == v.stamp.tx) != v.current():
		v.problem(errOlderState)
	}
	return ctx.Err()
}

// errLostRoot means that an earlier root was used.
const errLostRoot = contradiction("the root of the last state is lost: a connection that was deleted shortly before may be back")

// current reports whether all revisions that were found are, together, those of the last change.
func (v *survey) current() bool {
	var sum uint64
	for storeKey, rev := range v.revs {
		if repaired, ok := v.repaired[storeKey]; ok {
			rev = repaired.rev
		}
		sum += revisionSum([]byte(storeKey), rev)
	}
	for storeKey, repaired := range v.repaired {
		if _, ok := v.revs[storeKey]; !ok {
			sum += revisionSum([]byte(storeKey), repaired.rev)
		}
	}
	return sum == v.stamp.sum
}

func (v *survey) problem(err error) {
	if err != nil && !v.seen[err.Error()] {
		v.seen[err.Error()] = true
		v.problems = append(v.problems, err)
	}
}

// buckets opens the buckets, which are nil if there are none. If the root cannot be read, or is too
// old, the newest one is used that can be found in the file.
func (v *survey) buckets(s *boltfile.Structure) (best buckets) {
	if v.trees != nil {
		b, err := openBuckets(v.trees)
		v.stamp = b.stamp
		if err == nil && (s.Contradicts == nil || s.Meta.Tx == v.stamp.tx) {
			return b
		}
		if err == nil {
			err = errOlderState
		}
		v.problem(err)
	}
	v.trees = nil
	least := 0
	for root := range v.file.Roots(v.size, string(recordBucket)) {
		b, err := openBuckets(root)
		if err != nil {
			continue
		}
		// A deletion assigns no revision. So without a stamp the newest of several roots is the one whose
		// pages were not used again.
		errs := b.countErrors()
		if best.records == nil || cmp.Or(cmp.Compare(b.records.Sequence, best.records.Sequence),
			cmp.Compare(b.stamp.tx, v.stamp.tx), cmp.Compare(least, errs)) > 0 {
			best, v.trees, v.stamp, least = b, root, b.stamp, errs
		}
	}
	return best
}

func (b buckets) countErrors() (n int) {
	for _, tree := range []*boltfile.Tree{b.records, b.revisions} {
		for _, err := range tree.All(nil) {
			if err != nil {
				n++
			}
		}
	}
	return n
}

// read reads the current records, those apart that were changed later.
func (v *survey) read(ctx context.Context, b buckets, later lostChanges, keep func(storeKey []byte, s stored) error) error {
	if b.records == nil {
		return nil
	}
	for e, err := range b.revisions.All(nil) {
		if err != nil {
			v.problem(err)
			v.hidesRevisions = true
			continue
		}
		if _, err := decodeKey(e.Key); err != nil {
			v.problem(err)
			continue
		}
		rev, err := decodeRevision(e.Value)
		if err != nil {
			v.problem(fmt.Errorf("%s: %w", name(e.Key), err))
		}
		v.revs[string(e.Key)] = rev
		v.lost[string(e.Key)] = true // until its record is found
	}
	for e, err := range b.records.All(nil) {
		if err != nil {
			v.problem(err)
			v.hidesRecords = true
			continue
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		storeKey := string(e.Key)
		if later.has(e.Key) {
			continue
		}
		if rev := v.revs[storeKey]; rev != 0 && v.fits(e.Key, e.Value, rev) {
			delete(v.lost, storeKey)
			v.direct++
			if err := keep(e.Key, stored{e.Value, rev}); err != nil {
				return err
			}
			continue
		}
		v.problem(contradiction(fmt.Sprintf("the record of %s does not decrypt with its revision", name(e.Key))))
		v.lost[storeKey] = true
		v.pending[storeKey] = e.Value
	}
	return nil
}

// takeLastChanges takes the changes that a damaged header or root has lost.
func (v *survey) takeLastChanges(later lostChanges) {
	complete := later.complete()
	for storeKey := range v.revs {
		if later.has([]byte(storeKey)) {
			v.revs[storeKey] = 0 // so that repair does not take the older state
		}
	}
	found := v.records(later.revs)
	for storeKey, rev := range later.revs {
		v.revs[storeKey] = 0
		v.lost[storeKey] = true
		if s, ok := found[storeKey]; ok && complete {
			v.found(storeKey, s)
		} else if rev == 0 && complete {
			delete(v.lost, storeKey)
		}
		v.last = max(v.last, rev)
	}
}

// maxTries bounds how many revisions are tried: a minute or so.
const maxTries = 20_000_000

// repair looks for what is lost. Revisions grow: of a record and a revision that do not fit, the
// newer is the current one.
func (v *survey) repair() {
	for storeKey, ciphertext := range v.pending {
		known := v.revs[storeKey]
		if known == 0 && !v.hidesRevisions {
			continue
		}
		// A revision is but a number, so it can be tried.
		for rev := v.last; rev > known && v.tries < v.maxTries; rev, v.tries = rev-1, v.tries+1 {
			if v.fits([]byte(storeKey), ciphertext, rev) {
				v.found(storeKey, stored{ciphertext, rev})
				break
			}
		}
	}
	if len(v.lost) == 0 {
		return
	}
	newest := make(map[string]record.Revision)
	for storeKey, rev := range v.revisions() {
		if v.lost[storeKey] && rev <= v.last {
			newest[storeKey] = max(rev, newest[storeKey])
		}
	}
	// A revision whose record no tree leads to.
	for e := range v.file.Scan(v.size) {
		storeKey := string(e.Key)
		rev := v.revs[storeKey]
		if v.lost[storeKey] && rev != 0 && rev >= newest[storeKey] && (v.hidesRecords || v.pending[storeKey] != nil) && v.fits(e.Key, e.Value, rev) {
			v.found(storeKey, stored{e.Value, rev})
		}
	}
}

func (v *survey) found(storeKey string, s stored) {
	v.repaired[storeKey] = s
	delete(v.lost, storeKey)
}

// names returns the names of connections in order.
func names[V any](storeKeys map[string]V) []string {
	var all []string
	for storeKey := range storeKeys {
		all = append(all, name([]byte(storeKey)))
	}
	slices.Sort(all)
	return all
}

// transaction returns the number of the last one, 0 if it is unknown.
func (v *survey) transaction() uint64 {
	meta, _, _ := v.file.Metas()
	return meta.Tx
}
