package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
)

const canary = "s3cr3t-refresh-token"

func TestOpenTouchesNothing(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "a", "journal")
	j := Open(Config{Dir: dir})
	wantEntries(t, j, nil)
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("directory: %v, want none", err)
	}
	check(t, j)
	for path, want := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, keyName): 0o600, j.own.path: 0o600} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want && runtime.GOOS != "windows" {
			t.Errorf("%s: mode %o, want %o", path, got, want)
		}
	}
	closeJournal(t, j)
	if left := logs(t, dir); len(left) != 0 {
		t.Errorf("files after Close = %v, want none", left)
	}
}

func TestEntriesAreKeptUntilRemoved(t *testing.T) {
	t.Parallel()
	j := open(t, t.TempDir())
	put(t, j, "a", "1")
	put(t, j, "b", "2")
	put(t, j, "a", "3")
	check(t, j)
	wantEntries(t, j, map[string]string{"a": "3", "b": "2"})
	remove(t, j, "a")
	remove(t, j, "never")
	wantEntries(t, j, map[string]string{"b": "2"})
	remove(t, j, "b")
	wantEntries(t, j, nil)
	if j.own.size != 0 {
		t.Errorf("size without entries = %d, want 0", j.own.size)
	}
}

func TestNextProcessAdoptsRemainingEntries(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := open(t, dir)
	for _, id := range []string{"a", "b", "c"} {
		put(t, first, id, canary+id)
	}
	remove(t, first, "b")
	check(t, first)
	closeJournal(t, first)
	for _, path := range logs(t, dir) {
		if content := readFile(t, path); bytes.Contains(content, []byte(canary)) {
			t.Error("the file is not encrypted")
		}
	}

	second := open(t, dir)
	put(t, second, "d", "4")
	put(t, second, "a", "new")
	wantEntries(t, second, map[string]string{"a": "new", "c": canary + "c", "d": "4"}, "a")
	for _, id := range []string{"a", "c"} {
		remove(t, second, id)
	}
	if got := logs(t, dir); len(got) != 1 || got[0] != second.own.path {
		t.Errorf("files = %v; want only %s", got, second.own.path)
	}
	wantEntries(t, second, map[string]string{"d": "4"})
}

func TestReplacedEntryOfAnotherProcessIsRemoved(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := open(t, dir)
	put(t, first, "a", "old")
	closeJournal(t, first)
	second := open(t, dir)
	wantEntries(t, second, map[string]string{"a": "old"})
	put(t, second, "a", "new")
	wantEntries(t, second, map[string]string{"a": "new"})
}

func TestLivingProcessesKeepTheirFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first, second := open(t, dir), open(t, dir)
	put(t, first, "a", "1")
	put(t, second, "b", "2")
	wantEntries(t, first, map[string]string{"a": "1"})
	wantEntries(t, second, map[string]string{"b": "2"})
	closeJournal(t, first)
	wantEntries(t, second, map[string]string{"a": "1", "b": "2"})
}

func TestOneOfManyAdopts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const files = 8
	for i := range files {
		j := open(t, dir)
		put(t, j, strconv.Itoa(i), "x")
		closeJournal(t, j)
	}
	journals := make([]*Journal, 4)
	var mu sync.Mutex
	seen := make(map[string]int)
	var adopters sync.WaitGroup
	for i := range journals {
		j := open(t, dir)
		journals[i] = j
		adopters.Go(func() {
			// Other processes create files at the same time, which must not be adopted.
			if err := j.Put(t.Context(), fmt.Sprintf("own %d", i), []byte("y")); err != nil {
				t.Error(err)
			}
			for entry, err := range j.Entries(t.Context()) {
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				seen[entry.ID]++
				mu.Unlock()
			}
		})
	}
	adopters.Wait()
	if len(seen) != files+len(journals) {
		t.Errorf("entries = %v; want %d", seen, files+len(journals))
	}
	for id, n := range seen {
		if n != 1 {
			t.Errorf("entry %s was yielded %d times, want once", id, n)
		}
	}
}

func TestLargeFileOfRemovedEntriesIsCompacted(t *testing.T) {
	t.Parallel()
	j := open(t, t.TempDir())
	put(t, j, "stays", "1")
	large := strings.Repeat("x", 300<<10)
	for range 5 {
		put(t, j, "goes", large)
		remove(t, j, "goes")
	}
	put(t, j, "last", "2")
	if j.own.size > 1<<20 {
		t.Errorf("size = %d, want it compacted", j.own.size)
	}
	wantEntries(t, j, map[string]string{"stays": "1", "last": "2"})
}

func TestBusyOrClosedJournalReturnsAnErrorAtOnce(t *testing.T) {
	t.Parallel()
	j := open(t, t.TempDir())
	j.busy <- struct{}{}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := j.Put(ctx, "a", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("Put = %v, want context.Canceled", err)
	}
	<-j.busy
	closeJournal(t, j)
	closeJournal(t, j)
	if err := j.Check(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("Check = %v, want ErrClosed", err)
	}
}

func open(t *testing.T, dir string) *Journal {
	t.Helper()
	j := Open(Config{Dir: dir})
	t.Cleanup(func() { _ = j.Close() })
	return j
}

func check(t *testing.T, j *Journal) {
	t.Helper()
	if err := j.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func put(t *testing.T, j *Journal, id, data string) {
	t.Helper()
	if err := j.Put(t.Context(), id, []byte(data)); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, j *Journal, id string) {
	t.Helper()
	if err := j.Remove(t.Context(), id); err != nil {
		t.Fatal(err)
	}
}

func closeJournal(t *testing.T, j *Journal) {
	t.Helper()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

// wantEntries compares the entries. twice names an id that may also have an older entry.
func wantEntries(t *testing.T, j *Journal, want map[string]string, twice ...string) {
	t.Helper()
	got := make(map[string]string)
	for entry, err := range j.Entries(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if _, again := got[entry.ID]; again && (len(twice) == 0 || twice[0] != entry.ID) {
			t.Errorf("entry %s was yielded twice", entry.ID)
		}
		got[entry.ID] = string(entry.Data) // the process's own entries come last
	}
	if !maps.Equal(got, want) {
		t.Errorf("entries = %v, want %v", got, want)
	}
}

func logs(t *testing.T, dir string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, filePrefix+"*"))
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
