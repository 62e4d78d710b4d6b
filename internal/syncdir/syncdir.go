// Package syncdir makes the names of files durable.
package syncdir

import (
	"errors"
	"os"
	"runtime"
	"syscall"
)

// Sync makes the entries of a directory durable, since syncing a file does not cover its
// name.
func Sync(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // directories cannot be synced there
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		err = nil // some network file systems cannot sync directories
	}
	return errors.Join(err, d.Close())
}
