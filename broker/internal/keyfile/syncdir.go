package keyfile

import (
	"errors"
	"os"
	"runtime"
	"syscall"
)

// SyncDir makes the entries of a directory durable: syncing a file does not cover the
// name by which it is found. It is for who keeps the files that the key is for, too.
func SyncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // directories cannot be synced there
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		err = nil // some network file systems have no such thing
	}
	return errors.Join(err, d.Close())
}
