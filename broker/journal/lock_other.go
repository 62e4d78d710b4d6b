//go:build !(darwin || dragonfly || freebsd || illumos || linux || netbsd || openbsd || windows)

package journal

import (
	"errors"
	"fmt"
	"os"
	"runtime"
)

// tryLock fails: without a lock that ends with its process, nobody could tell whose
// entries are to be adopted.
func tryLock(*os.File) (bool, error) {
	return false, fmt.Errorf("a journal on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}

// unlock does nothing: nothing is ever locked.
func unlock(*os.File) error { return nil }
