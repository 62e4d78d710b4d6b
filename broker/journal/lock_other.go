//go:build !(darwin || dragonfly || freebsd || illumos || linux || netbsd || openbsd || windows)

package journal

import (
	"errors"
	"fmt"
	"os"
	"runtime"
)

// tryLock fails: without a lock that ends with its process, the files of processes that have
// ended cannot be recognised.
func tryLock(*os.File) (bool, error) {
	return false, fmt.Errorf("a journal on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}

// unlock does nothing, since no file is ever locked.
func unlock(*os.File) error { return nil }
