package importing

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
)

// A mark is what the file of refused rows has, up to some point.
type mark struct {
	Bytes int64  `json:"bytes"`
	Hash  string `json:"sha256"` // of those bytes
}

// A refusedFile has the rows that were refused, with their secrets. It is created with the
// first of them. Until then a file with its name is that of an earlier import.
type refusedFile struct {
	path string
	file *os.File
	size int64
	sum  hash.Hash // of the first size bytes

	aside string // where the file of an earlier import is now; empty if there was none
}

func newRefused(path string) (*refusedFile, error) {
	if info, err := os.Lstat(path); err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("the refused rows cannot be written to %s: it is not a file", path)
	}
	return &refusedFile{path: path, sum: sha256.New()}, nil
}

// resume opens the file of an interrupted import. The state has its length and hash, and what
// they become with the last write, which can have been done. Rows that were changed since would
// be written over, so that is an error. It reports whether the file has been moved away.
func (r *refusedFile) resume(kept, next mark) (moved bool, err error) {
	file, err := os.OpenFile(r.path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return kept.Bytes > 0, nil
	}
	if err != nil {
		return false, err
	}
	whole, err := file.Stat()
	if err == nil {
		_, err = io.CopyN(r.sum, file, kept.Bytes)
	}
	isSame := err == nil && (kept.Bytes == 0 || r.mark().Hash == kept.Hash)
	if isSame && whole.Size() != kept.Bytes {
		// The command was killed between the write and the next state: the rows come again.
		all := sha256.New()
		_, err = file.Seek(0, io.SeekStart)
		if err == nil {
			_, err = io.Copy(all, file)
		}
		isSame = err == nil && whole.Size() == next.Bytes && hex.EncodeToString(all.Sum(nil)) == next.Hash
	}
	if !isSame {
		return false, errors.Join(fmt.Errorf("%s was changed after the import was interrupted, and the rest of the import would write over it: "+
			"move it to another name, run this command again, and import the moved file when that has finished", r.path), file.Close())
	}
	r.file, r.size = file, kept.Bytes
	return false, file.Truncate(kept.Bytes)
}

// setAside renames the file of an earlier import: its rows may have been mended.
func (r *refusedFile) setAside() error {
	if info, err := os.Lstat(r.path); err != nil || info.Size() == 0 {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return errors.Join(err, os.Remove(r.path))
	}
	for n := 1; ; n++ {
		to := fmt.Sprintf("%s.%d", r.path, n)
		// Unlike a rename, a link never replaces a file.
		err := os.Link(r.path, to)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err == nil {
			r.aside, err = to, os.Remove(r.path)
		}
		return err
	}
}

// removeSame removes the file of an earlier import if this one has refused the same rows for the
// same reasons. Repeated imports would leave one copy each.
func (r *refusedFile) removeSame() error {
	if r.aside == "" {
		return nil
	}
	file, err := os.Open(r.aside)
	if err != nil {
		return err
	}
	defer file.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, file); err != nil || hex.EncodeToString(sum.Sum(nil)) != r.mark().Hash {
		return err
	}
	name := r.aside
	r.aside = ""
	return os.Remove(name)
}

// with returns the mark that the file has with further lines.
func (r *refusedFile) with(lines []byte) mark {
	r.sum.Write(lines) // never fails
	return mark{r.size + int64(len(lines)), hex.EncodeToString(r.sum.Sum(nil))}
}

// mark returns that of the file as it is.
func (r *refusedFile) mark() mark { return r.with(nil) }

// append writes lines of which with was told, and returns when they are on disk.
func (r *refusedFile) append(lines []byte) error {
	if r.file == nil {
		file, err := os.OpenFile(r.path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
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
