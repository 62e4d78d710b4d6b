package journal

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

func TestLostKeyIsReportedAndDestroysNothing(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(path string) error{
		"missing": os.Remove,
		"of another journal": func(path string) error {
			if err := os.Remove(path); err != nil {
				return err
			}
			other := t.TempDir()
			check(t, open(t, other))
			return os.Rename(filepath.Join(other, keyName), path)
		},
		"damaged": func(path string) error { return os.WriteFile(path, []byte("{}"), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			first := open(t, dir)
			put(t, first, "a", canary)
			closeJournal(t, first)
			keyPath := filepath.Join(dir, keyName)
			backup, before := readFile(t, keyPath), logs(t, dir)
			if err := lose(keyPath); err != nil {
				t.Fatal(err)
			}
			second := open(t, dir)
			entries, errs := second.collect(t.Context())
			if len(entries) != 0 || len(errs) != 1 || !errors.Is(errs[0], ErrKey) || !strings.Contains(errs[0].Error(), keyPath) {
				t.Fatalf("Entries = %v, %v; want ErrKey that names %s", entries, errs, keyPath)
			}
			if got := logs(t, dir); len(got) != 1 || got[0] != before[0] {
				t.Errorf("files = %v, want %v", got, before)
			}
			if err := os.WriteFile(keyPath, backup, 0o600); err != nil {
				t.Fatal(err)
			}
			wantEntries(t, open(t, dir), map[string]string{"a": canary})
		})
	}
}

// The entries in memory are written again, under the key that the next process will find.
func TestVanishedKeyOrDirectoryIsReplaced(t *testing.T) {
	t.Parallel()
	for name, vanish := range map[string]func(dir string) error{
		"key":       func(dir string) error { return os.Remove(filepath.Join(dir, keyName)) },
		"directory": os.RemoveAll,
	} {
		t.Run(name, func(t *testing.T) {
			if runtime.GOOS == "windows" {
				t.Skip("open files cannot be removed")
			}
			dir := filepath.Join(t.TempDir(), "journal")
			first := open(t, dir)
			put(t, first, "a", "1")
			if err := vanish(dir); err != nil {
				t.Fatal(err)
			}
			check(t, first)
			closeJournal(t, first)
			wantEntries(t, open(t, dir), map[string]string{"a": "1"})
		})
	}
}

func TestFailedWriteKeepsTheEarlierEntry(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := open(t, dir)
	put(t, first, "a", "1")
	d := &failing{write: syscall.ENOSPC}
	first.own.disk, first.disk = d, d
	for name, err := range map[string]error{"Put": first.Put(t.Context(), "a", []byte(canary)), "Check": first.Check(t.Context())} {
		if !errors.Is(err, syscall.ENOSPC) || strings.Contains(err.Error(), canary) {
			t.Errorf("%s on a full disk = %v, want ENOSPC", name, err)
		}
	}
	wantEntries(t, first, map[string]string{"a": "1"})
	*d = failing{}
	put(t, first, "b", "2")
	closeJournal(t, first)
	wantEntries(t, open(t, dir), map[string]string{"a": "1", "b": "2"})
}

func TestFailedSyncLeadsToANewFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := open(t, dir)
	put(t, first, "a", "1")
	old := first.own.path
	first.own.disk = &failing{sync: syscall.EIO} // a new file works
	put(t, first, "b", "2")
	if _, err := os.Stat(old); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Stat of the old file = %v, want ErrNotExist", err)
	}
	first.own.disk, first.disk = &failing{sync: syscall.EIO}, &failing{sync: syscall.EIO}
	if err := first.Put(t.Context(), "c", []byte("3")); !errors.Is(err, syscall.EIO) {
		t.Errorf("Put on a dead disk = %v, want EIO", err)
	}
	if err := first.Check(t.Context()); !errors.Is(err, syscall.EIO) {
		t.Errorf("Check on a dead disk = %v, want EIO", err)
	}
	wantEntries(t, first, map[string]string{"a": "1", "b": "2"})
	first.disk = osDisk{}
	check(t, first)
	put(t, first, "d", "4")
	closeJournal(t, first)
	wantEntries(t, open(t, dir), map[string]string{"a": "1", "b": "2", "d": "4"})
}

// failing is a disk that fails after writing half of the data.
type failing struct {
	osDisk
	write, sync error
}

func (d *failing) WriteAt(f *os.File, b []byte, offset int64) (int, error) {
	if d.write != nil {
		n, _ := f.WriteAt(b[:len(b)/2], offset)
		return n, d.write
	}
	return d.osDisk.WriteAt(f, b, offset)
}

func (d *failing) Sync(f *os.File) error {
	if d.sync != nil {
		return d.sync
	}
	return d.osDisk.Sync(f)
}
