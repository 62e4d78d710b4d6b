package importing

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// A refusedFile has the rows that were refused, with their secrets. It is created with the
// first of them.
type refusedFile struct {
	path string
	file *os.File
	size int64
}

// openRefused returns the file, cut to the rows that an interrupted import has noted, or
// without any.
func openRefused(path string, keep int64) (*refusedFile, error) {
	r := &refusedFile{path: path}
	if keep > 0 {
		file, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return nil, err
		}
		r.file, r.size = file, keep
		return r, file.Truncate(keep)
	}
	if info, err := os.Lstat(path); err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("the refused rows cannot replace %s: it is not a file", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return r, nil
}

// append writes lines, and returns when they are on disk.
func (r *refusedFile) append(lines []byte) error {
	if len(lines) == 0 {
		return nil
	}
	if r.file == nil {
		file, err := os.OpenFile(r.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		r.file = file
	}
	n, err := r.file.WriteAt(lines, r.size)
	r.size += int64(n)
	return errors.Join(err, r.file.Sync())
}

func (r *refusedFile) close() error {
	if r.file == nil {
		return nil
	}
	return r.file.Close()
}
