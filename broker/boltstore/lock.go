package boltstore

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// ErrLocked means that the store is open already, here or in another process, which
// the error's text names.
var ErrLocked = errors.New("the embedded store is in use")

// opened are the stores that this process has open, or is opening, by directory.
// bbolt would wait for itself.
var opened = struct {
	sync.Mutex
	dirs map[string]bool // guarded by the mutex
}{dirs: make(map[string]bool)}

// reserve claims dir for one Store of this process.
func reserve(dir string) (release func(), err error) {
	opened.Lock()
	defer opened.Unlock()
	if opened.dirs[dir] {
		return nil, fmt.Errorf("%w: %s is already open in this process (%d): "+
			"give each configuration the same directory once, or directories of their own", ErrLocked, dir, os.Getpid())
	}
	opened.dirs[dir] = true
	return func() {
		opened.Lock()
		defer opened.Unlock()
		delete(opened.dirs, dir)
	}, nil
}

// A holder is who has the store open.
type holder struct {
	PID   int       `json:"pid"`
	Since time.Time `json:"since"`
}

// writeHolder is called by who has the lock. Nothing but an error text depends on
// what it writes.
func writeHolder(dir string) error {
	b, err := json.Marshal(holder{PID: os.Getpid(), Since: time.Now().UTC().Truncate(time.Second)})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, holderName), append(b, '\n'), 0o600)
}

func removeHolder(dir string) error {
	err := os.Remove(filepath.Join(dir, holderName))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// lockedBy returns the error for a store that another process has.
func lockedBy(dir string) error {
	who := "another process"
	var h holder
	b, err := os.ReadFile(filepath.Join(dir, holderName))
	if err == nil && json.Unmarshal(b, &h) == nil && h.PID != 0 {
		who = fmt.Sprintf("process %d, which opened it at %s", h.PID, h.Since.Format(time.RFC3339))
	}
	return fmt.Errorf("%w: %s is held by %s: stop that process, or use another directory", ErrLocked, dir, who)
}
