//go:build darwin || dragonfly || freebsd || illumos || linux || netbsd || openbsd

package journal

import (
	"testing"

	"golang.org/x/sys/unix"
)

// Between fork and exec, a child process shares the open files of its parent, and their locks.
func TestClosedJournalCanBeAdoptedWhileAForkHasTheFileOpen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := open(t, dir)
	put(t, first, "a", "1")
	forked, err := unix.Dup(int(first.own.handle.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(forked) }()
	closeJournal(t, first)
	wantEntries(t, open(t, dir), map[string]string{"a": "1"})
}
