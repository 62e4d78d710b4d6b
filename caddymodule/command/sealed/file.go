// Package sealed writes files of secrets: encrypted with age, readable by their owner alone, and
// under their name only once they are complete. It also opens and decrypts such files.
package sealed

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"filippo.io/age"

	"github.com/tokenbroker/caddy-token-broker/internal/syncdir"
)

// A File is a file that is being written. It is not for concurrent use.
type File struct {
	path    string
	replace bool

	temporary *os.File
	buffer    *bufio.Writer
	sealed    io.WriteCloser // nil if the file is not encrypted
}

// Create begins a file that will have the name path. Without recipients it is not encrypted.
// Unless replace is set, a file of that name is an error, [os.ErrExist].
func Create(path string, replace bool, recipients ...age.Recipient) (*File, error) {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return nil, fmt.Errorf("%s is a directory: name a file", path)
	}
	if _, err := os.Lstat(path); err == nil && !replace {
		return nil, exists(path)
	}
	// CreateTemp opens with O_EXCL and mode 0600.
	temporary, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.tmp")
	if err != nil {
		return nil, err
	}
	f := &File{path: path, replace: replace, temporary: temporary, buffer: bufio.NewWriterSize(temporary, 64<<10)}
	if len(recipients) > 0 {
		if f.sealed, err = age.Encrypt(f.buffer, recipients...); err != nil {
			return nil, errors.Join(err, f.Discard())
		}
	}
	return f, nil
}

func exists(path string) error {
	return fmt.Errorf("%w: %s: use --force to replace it", os.ErrExist, path)
}

// Write implements [io.Writer].
func (f *File) Write(b []byte) (int, error) {
	if f.sealed != nil {
		return f.sealed.Write(b)
	}
	return f.buffer.Write(b)
}

// Commit makes the file durable and gives it its name. If that fails, nothing has the name, or the
// file has it that had it before.
func (f *File) Commit() (err error) {
	defer func() { err = errors.Join(err, f.Discard()) }()
	if f.sealed != nil {
		if err := f.sealed.Close(); err != nil {
			return err
		}
	}
	if err := errors.Join(f.buffer.Flush(), f.temporary.Sync(), f.temporary.Close()); err != nil {
		return err
	}
	if err := f.rename(); err != nil {
		return err
	}
	return syncdir.Sync(filepath.Dir(f.path))
}

// rename gives the file its name. Only a hard link does so without a race if another file must not
// be replaced; not every file system has them.
func (f *File) rename() error {
	if !f.replace {
		err := os.Link(f.temporary.Name(), f.path)
		if err == nil {
			return nil // Discard removes the other name
		}
		if _, err := os.Lstat(f.path); err == nil {
			return exists(f.path)
		}
	}
	return os.Rename(f.temporary.Name(), f.path)
}

// Discard removes what was written, unless Commit was called.
func (f *File) Discard() error {
	_ = f.temporary.Close()
	if err := os.Remove(f.temporary.Name()); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
