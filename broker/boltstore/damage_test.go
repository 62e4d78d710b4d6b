package boltstore_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/boltstore"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

const pageSize = 4096

// A sound is a closed store, and what it contains.
type sound struct {
	files    map[string][]byte // by name
	contents map[string]string // access tokens by consumer
}

// soundStore makes a store whose trees have branches, with records that are longer than a page,
// and free pages.
func soundStore(t *testing.T) *sound {
	t.Helper()
	dir := t.TempDir()
	s := &sound{files: make(map[string][]byte), contents: make(map[string]string)}
	store := openStore(t, dir)
	revs := make(map[string]record.Revision)
	for i := range 60 {
		consumer := fmt.Sprintf("consumer-%02d-%s", i%45, strings.Repeat("x", 60))
		token := fmt.Sprintf("token-%d", i)
		if i%7 == 0 {
			token += strings.Repeat("-", 5000)
		}
		revs[consumer] = save(t, store, newRecord(consumer, token), revs[consumer])
		s.contents[consumer] = token
	}
	closeStore(t, store)
	for _, name := range []string{"connections.db", "key.json"} {
		s.files[name] = readFile(t, filepath.Join(dir, name))
	}
	return s
}

// database returns a copy of the database.
func (s *sound) database() []byte { return bytes.Clone(s.files["connections.db"]) }

// with returns the directory of a copy with another database.
func (s *sound) with(t *testing.T, database []byte) (dir string) {
	t.Helper()
	dir = t.TempDir()
	writeFile(t, filepath.Join(dir, "connections.db"), database)
	writeFile(t, filepath.Join(dir, "key.json"), s.files["key.json"])
	return dir
}

// An outcome says what was seen of a damaged store.
type outcome struct {
	lost  map[string]bool // consumers that cannot be read
	saved int             // changes that were taken
	err   error           // of the first operation that failed
}

// wantRight uses a store that may be damaged. Each answer must be right, or an error that
// names the file and the remedy.
func (s *sound) wantRight(t *testing.T, what, dir string) (o outcome) {
	t.Helper()
	o.lost = make(map[string]bool)
	store, err := boltstore.Open(t.Context(), boltstore.Config{Dir: dir})
	if err != nil {
		o.fail(t, what, err)
		for consumer := range s.contents {
			o.lost[consumer] = true
		}
		return o
	}
	defer func() {
		if err := store.Close(); err != nil {
			t.Errorf("%s: Close: %v", what, err)
		}
	}()
	s.use(t, what, store, &o)
	if err := store.Check(t.Context()); (err == nil) != (o.err == nil) && o.err != nil {
		t.Errorf("%s: Check = %v after %v", what, err, o.err)
	}
	return o
}

// use reads and changes all records, and leaves them as they were.
func (s *sound) use(t *testing.T, what string, store record.Store, o *outcome) {
	t.Helper()
	for _, consumer := range slices.Sorted(maps.Keys(s.contents)) {
		rec, rev, err := store.Load(t.Context(), key(consumer))
		if err != nil {
			o.lost[consumer] = true
			o.fail(t, what, err)
			continue
		}
		if got := rec.Credentials.AccessToken.Reveal(); got != s.contents[consumer] {
			t.Fatalf("%s: %s has %.20q, want %.20q", what, consumer, got, s.contents[consumer])
		}
		if o.saved > 0 {
			continue // one change is enough
		}
		if _, err := store.Save(t.Context(), rec, rev); err != nil {
			o.fail(t, what, err)
		} else {
			o.saved++
		}
	}
	if _, _, err := store.Load(t.Context(), key("nobody")); !errors.Is(err, record.ErrNotFound) {
		o.fail(t, what, err)
	}
	_, rev, err := store.Load(t.Context(), key("new")) // it may not have been deleted
	if err != nil && !errors.Is(err, record.ErrNotFound) {
		o.fail(t, what, err)
	} else if _, err := store.Save(t.Context(), newRecord("new", "token"), rev); err != nil {
		o.fail(t, what, err)
	} else if err := store.Delete(t.Context(), key("new")); err != nil {
		o.fail(t, what, err)
	}
	listed := 0
	for _, err := range store.List(t.Context(), "", "") {
		if err != nil {
			o.fail(t, what, err)
			return
		}
		listed++
	}
	if listed < len(s.contents) || listed > len(s.contents)+1 {
		t.Fatalf("%s: List yields %d connections, want %d", what, listed, len(s.contents))
	}
}

func (o *outcome) fail(t *testing.T, what string, err error) {
	t.Helper()
	if err == nil || errors.Is(err, record.ErrNotFound) || errors.Is(err, record.ErrConflict) ||
		!errors.Is(err, boltstore.ErrDamaged) && !errors.Is(err, boltstore.ErrDatabaseMissing) ||
		!strings.Contains(err.Error(), "connections.db") {
		t.Fatalf("%s: got %v; want the record, or an error that names the file", what, err)
	}
	if o.err == nil {
		o.err = err
	}
}

// kindOf returns the kind of a page.
func kindOf(database []byte, page int) string {
	switch binary.NativeEndian.Uint16(database[page*pageSize+8:]) {
	case 1:
		return "branch"
	case 2:
		return "leaf"
	case 4:
		return "meta"
	case 16:
		return "freelist"
	}
	return "other"
}

// Each page is damaged in turn, in several ways.
func TestDamagedPageCostsOnlyWhatIsOnIt(t *testing.T) {
	t.Parallel()
	s := soundStore(t)
	whole := s.database()
	pages := len(bytes.TrimRight(whole, "\x00"))/pageSize + 1 // the rest was never used
	ways := map[string]func(database []byte, page int){
		"zeroed": func(b []byte, page int) { clear(b[page*pageSize:][:pageSize]) },
		"swapped": func(b []byte, page int) {
			other := (page + 1) % pages
			p, q := b[page*pageSize:][:pageSize], b[other*pageSize:][:pageSize]
			was := bytes.Clone(p)
			copy(p, q)
			copy(q, was)
		},
		"with the content of another": func(b []byte, page int) {
			// It keeps its number.
			for other := range pages {
				if other != page && kindOf(b, other) == kindOf(b, page) {
					copy(b[page*pageSize+8:][:pageSize-8], b[other*pageSize+8:][:pageSize-8])
					return
				}
			}
		},
	}
	for name, damage := range ways {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for page := range pages {
				damaged := bytes.Clone(whole)
				damage(damaged, page)
				what := fmt.Sprintf("page %d (%s) %s", page, kindOf(whole, page), name)
				o := s.wantContained(t, what, damaged)
				if name != "zeroed" {
					continue // that can be more than one page's damage
				}
				if kind := kindOf(whole, page); (kind == "meta" || kind == "freelist") && o.err != nil {
					t.Errorf("%s: %v; want no error, since no connection is on it", what, o.err)
				}
				if len(o.lost) < len(s.contents)/2 && o.saved == 0 {
					t.Errorf("%s: no change was taken, though %d connections can be read", what, len(s.contents)-len(o.lost))
				}
			}
		})
	}
}

// wantContained uses a damaged store, checks it and rebuilds it.
func (s *sound) wantContained(t *testing.T, what string, damaged []byte) outcome {
	t.Helper()
	dir := s.with(t, damaged)
	report, err := boltstore.Check(t.Context(), boltstore.Config{Dir: dir})
	if err != nil {
		t.Fatalf("%s: Check: %v", what, err)
	}
	rebuilt := filepath.Join(t.TempDir(), "rebuilt.db")
	saved, err := boltstore.Rebuild(t.Context(), boltstore.Config{Dir: dir}, rebuilt)
	if err != nil {
		saved = &boltstore.Report{}
	}
	before := s.wantRight(t, what, dir)
	if before.err != nil && len(report.Damage) == 0 {
		t.Errorf("%s: Check found nothing, and %v", what, before.err)
	}
	after := s.wantRight(t, what+", again", dir)
	if len(after.lost) > len(before.lost) {
		t.Errorf("%s: after changes %d connections are lost, before %d", what, len(after.lost), len(before.lost))
	}
	if got := saved.Readable + len(saved.Repairable); got < len(s.contents)-len(before.lost) || got > len(s.contents) {
		t.Errorf("%s: Rebuild saved %d of %d connections and lost %d, where %d could not be read: %v", what, got, len(s.contents), len(saved.Lost), len(before.lost), err)
	} else if err == nil {
		s.wantRebuilt(t, what, rebuilt, saved)
	}
	return before
}

// wantRebuilt checks that a rebuilt database is sound, and has the right records.
func (s *sound) wantRebuilt(t *testing.T, what, path string, saved *boltstore.Report) {
	t.Helper()
	dir := s.with(t, readFile(t, path))
	report, err := boltstore.Check(t.Context(), boltstore.Config{Dir: dir})
	if err != nil || len(report.Damage) > 0 || report.Readable != saved.Readable+len(saved.Repairable) {
		t.Fatalf("%s: Check of the rebuilt store = %+v, %v", what, report, err)
	}
	store := openStore(t, dir)
	defer closeStore(t, store)
	for key, err := range store.List(t.Context(), "", "") {
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		rec, _, err := store.Load(t.Context(), key)
		if err != nil || rec.Credentials.AccessToken.Reveal() != s.contents[key.Consumer] {
			t.Fatalf("%s: after a rebuild %s is %v, %v", what, key, rec, err)
		}
	}
}

// One bit is flipped at a time, all over the file.
func TestFlippedBitCostsOnlyWhatIsOnItsPage(t *testing.T) {
	t.Parallel()
	s := soundStore(t)
	whole := s.database()
	random := rand.New(rand.NewPCG(1, 2))
	for range 40 {
		page, at := random.IntN(len(whole)/pageSize), random.IntN(pageSize)
		if random.IntN(2) == 0 {
			at = random.IntN(300) // headers and tables are at the beginning
		}
		damaged := bytes.Clone(whole)
		damaged[page*pageSize+at] ^= 1 << random.IntN(8)
		s.wantContained(t, fmt.Sprintf("page %d (%s), byte %d", page, kindOf(whole, page), at), damaged)
	}
}

func TestDamagedFileIsAnErrorThatNamesItAndTheRemedy(t *testing.T) {
	t.Parallel()
	s := soundStore(t)
	whole := s.database()
	headers := bytes.Clone(whole)
	clear(headers[:2*pageSize])
	garbage := bytes.Repeat([]byte("garbage "), 4096)
	for name, test := range map[string]struct {
		database []byte
		lost     int // at least
		rebuilt  int // how many connections a rebuild saves
	}{
		"both copies of the header zeroed": {headers, len(s.contents), len(s.contents)},
		"cut to half":                      {whole[:len(whole)/2], 1, 0},
		"cut to one page":                  {whole[:pageSize], len(s.contents), 0},
		"cut to a few bytes":               {whole[:10], len(s.contents), 0},
		"not a database":                   {garbage, len(s.contents), 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := s.with(t, test.database)
			o := s.wantRight(t, name, dir)
			if len(o.lost) < test.lost || o.saved > 0 || !strings.Contains(o.err.Error(), "token-broker store rebuild") {
				t.Errorf("%d connections are lost and %d saved: %v; want %d lost or more, and the remedy", len(o.lost), o.saved, o.err, test.lost)
			}
			if !bytes.Equal(readFile(t, filepath.Join(dir, "connections.db")), test.database) {
				t.Error("the damaged file was changed")
			}
			path := filepath.Join(t.TempDir(), "rebuilt.db")
			report, err := boltstore.Rebuild(t.Context(), boltstore.Config{Dir: dir}, path)
			if test.rebuilt == 0 && errors.Is(err, boltstore.ErrDamaged) {
				return
			}
			if err != nil || report.Readable+len(report.Repairable) < test.rebuilt {
				t.Fatalf("Rebuild = %+v, %v; want %d connections", report, err, test.rebuilt)
			}
			s.wantRebuilt(t, name, path, report)
		})
	}
}
