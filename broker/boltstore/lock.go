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

// ErrLocked means that this process or another one has the store open. The error's text
// names the process.
var ErrLocked = errors.New("the embedded store is in use")

// opened holds the directories of the stores that this process has open, or is opening.
// Without it, a second Open would wait in vain for the lock of the first.
var opened = registry{dirs: make(map[string]bool)}

type registry struct {
	sync.Mutex
	dirs map[string]bool // guarded by Mutex
}

// reserve claims dir for one Store of this process.
func reserve(dir string) (release func(), err error) {
	opened.Lock()
	defer opened.Unlock()
	if opened.dirs[dir] {
		return nil, fmt.Errorf("%w: %s is already open in this process (%d): "+
			"use one storage for the directory, or a directory for each storage", ErrLocked, dir, os.Getpid())
	}
	opened.dirs[dir] = true
	return func() {
		opened.Lock()
		defer opened.Unlock()
		delete(opened.dirs, dir)
	}, nil
}

// A holder is the process that has the store open.
type holder struct {
	PID   int       `json:"pid"`
	Since time.Time `json:"since"`
}

// writeHolder records this process, which has the lock, as the holder. The file only
// serves error messages.
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

// lockedBy returns the error for a store that another process has open.
func lockedBy(dir string) error {
	who := "another process"
	var h holder
	b, err := os.ReadFile(filepath.Join(dir, holderName))
	if err == nil && json.Unmarshal(b, &h) == nil && h.PID != 0 {
		who = fmt.Sprintf("process %d, which opened it at %s", h.PID, h.Since.Format(time.RFC3339))
	}
	return fmt.Errorf("%w: %s is held by %s: stop that process, or use another directory", ErrLocked, dir, who)
}
