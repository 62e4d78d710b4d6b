package journal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// The names of journal files.
const (
	filePrefix = "journal-"
	fileSuffix = ".log"
)

// paths returns the journal files in the directory.
func (j *Journal) paths() ([]string, error) {
	entries, err := os.ReadDir(j.dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listing the journal: %w", err)
	}
	var paths []string
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), filePrefix) && strings.HasSuffix(entry.Name(), fileSuffix) {
			paths = append(paths, filepath.Join(j.dir, entry.Name()))
		}
	}
	return paths, nil
}

// holds reports whether this process has already locked the file.
func (j *Journal) holds(path string) bool {
	if j.own != nil && j.own.path == path {
		return true
	}
	for _, f := range j.adopted {
		if f.path == path {
			return true
		}
	}
	return false
}

// adopt takes over the files of processes that have ended. Damaged files are left as they
// are; it returns the entries that can still be read from them.
func (j *Journal) adopt(ctx context.Context) (salvaged []record.JournalEntry, errs []error) {
	paths, err := j.paths()
	if err != nil {
		return nil, []error{err}
	}
	for _, path := range paths {
		if j.holds(path) {
			continue
		}
		f, err := j.takeOver(ctx, path)
		if err != nil {
			errs = append(errs, err)
		}
		switch {
		case f == nil:
		case err != nil:
			salvaged = appendEntries(salvaged, f.live)
		default:
			j.adopted = append(j.adopted, f)
		}
	}
	return salvaged, errs
}

// takeOver locks and reads a file. It returns nil if another process holds the lock. A file
// without entries is deleted, and nil returned. After an error the file is closed.
func (j *Journal) takeOver(ctx context.Context, path string) (*file, error) {
	f, err := openFile(path, j.disk)
	if f == nil || err != nil {
		return nil, err
	}
	content, err := io.ReadAll(f.handle)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("reading the journal: %w", err), f.close())
	}
	if len(content) == 0 {
		return nil, f.discard()
	}
	if j.key == nil {
		if err := j.loadKey(); err != nil {
			return nil, errors.Join(err, f.close())
		}
	}
	if err := f.restore(content, j.key); err != nil {
		if errors.Is(err, errUndecipherable) {
			err = fmt.Errorf("%w: %s was not encrypted with %s, or was renamed: restore its own key file from a backup; "+
				"or, to give up its entries, move it away", ErrKey, path, j.keyPath())
		}
		return f, errors.Join(err, f.close())
	}
	if torn := int64(len(content)) - f.size; torn > 0 {
		j.log.LogAttrs(ctx, slog.LevelWarn, "an entry of the journal is incomplete after a crash and is dropped",
			slog.String("file", path), slog.Int64("bytes", torn))
		if err := f.cut(f.size); err != nil {
			j.warn(ctx, "an incomplete entry of the journal could not be removed", err)
		}
	}
	if len(f.live) == 0 {
		return nil, f.discard()
	}
	j.log.LogAttrs(ctx, slog.LevelInfo, "taking over the journal of a process that has ended",
		slog.String("file", path), slog.Int("entries", len(f.live)))
	return f, nil
}
