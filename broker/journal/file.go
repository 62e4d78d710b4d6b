package journal

import (
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/tokenbroker/caddy-token-broker/internal/syncdir"
)

// A disk carries out the operations on a file that can fail.
type disk interface {
	WriteAt(f *os.File, b []byte, offset int64) (int, error)
	Truncate(f *os.File, size int64) error
	Sync(f *os.File) error
}

type osDisk struct{}

func (osDisk) WriteAt(f *os.File, b []byte, offset int64) (int, error) { return f.WriteAt(b, offset) }

func (osDisk) Truncate(f *os.File, size int64) error { return f.Truncate(size) }

func (osDisk) Sync(f *os.File) error { return f.Sync() }

// A file is a journal file that this process has locked.
type file struct {
	path   string
	handle *os.File
	disk   disk
	key    tink.AEAD

	size   int64             // offset of the next frame
	seq    uint64            // of the last frame
	live   map[string][]byte // entries by id
	broken bool              // the content on disk is unknown: do not write to it again
	probes probeFrame
}

// A probeFrame is the frame of a probe, which is the same until the next entry.
type probeFrame struct {
	seq   uint64
	frame []byte // nil: there was no probe yet
}

// createAttempts bounds how often createFile starts again because another process adopted
// the new file before it was locked.
const createAttempts = 10

// createFile creates an empty file, locked and durable.
func createFile(dir string, key tink.AEAD, d disk) (*file, error) {
	for range createAttempts {
		path := filepath.Join(dir, filePrefix+strings.ToLower(rand.Text())+fileSuffix)
		handle, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return nil, err
		}
		f := &file{path: path, handle: handle, disk: d, key: key, live: make(map[string][]byte)}
		locked, err := f.lock()
		if err != nil {
			return nil, errors.Join(err, f.discard())
		}
		if !locked {
			continue
		}
		if err := syncdir.Sync(dir); err != nil {
			return nil, errors.Join(err, f.discard())
		}
		return f, nil
	}
	return nil, errors.New("other processes adopted every new file")
}

// openFile opens and locks an existing file. It returns nil if another process holds the
// lock, or has just deleted the file.
func openFile(path string, d disk) (*file, error) {
	handle, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("opening the journal: %w", err)
	}
	f := &file{path: path, handle: handle, disk: d, live: make(map[string][]byte)}
	locked, err := f.lock()
	if err != nil {
		return nil, errors.Join(err, f.close())
	}
	if !locked {
		return nil, nil
	}
	return f, nil
}

// lock locks the file. If another process holds the lock, or deleted the file before this
// one got the lock, it closes the file and reports false.
func (f *file) lock() (bool, error) {
	locked, err := tryLock(f.handle)
	if err != nil {
		return false, fmt.Errorf("locking %s, which must be on a local disk: %w", f.path, err)
	}
	if !locked || !f.isInPlace() {
		return false, f.close()
	}
	return true, nil
}

// isInPlace reports whether the path still names this file.
func (f *file) isInPlace() bool {
	mine, err := f.handle.Stat()
	if err != nil {
		return false
	}
	there, err := os.Lstat(f.path)
	return err == nil && os.SameFile(mine, there)
}

// restore sets the state of the file from its content. With [ErrDamaged] that is the state
// before the damage.
func (f *file) restore(content []byte, key tink.AEAD) error {
	read, err := readFrames(content, key, filepath.Base(f.path))
	f.key, f.live, f.seq, f.size = key, read.live, read.seq, int64(read.size)
	if errors.Is(err, ErrDamaged) {
		return fmt.Errorf("%w: %s at byte %d: the rest cannot be read; move the file away, and import the connections again whose refresh then fails",
			err, f.path, read.size)
	}
	return err
}

// put stores data under id, durably.
func (f *file) put(id string, data []byte) error {
	return f.putAll(func(yield func(string, []byte) bool) { yield(id, data) })
}

// putAll stores several entries and syncs once.
func (f *file) putAll(entries iter.Seq2[string, []byte]) error {
	added := make(map[string][]byte)
	for id, data := range entries {
		if err := f.append(operation{kind: kindPut, id: id, data: data}); err != nil {
			return err
		}
		added[id] = append([]byte(nil), data...)
	}
	if err := f.sync(); err != nil {
		return err
	}
	maps.Copy(f.live, added)
	return nil
}

// remove removes an entry, and truncates the file after the last one.
func (f *file) remove(id string) error {
	if _, ok := f.live[id]; !ok {
		return nil
	}
	if len(f.live) > 1 && !f.broken {
		if err := f.append(operation{kind: kindRemove, id: id}); err != nil {
			return err
		}
	}
	delete(f.live, id)
	if len(f.live) > 0 || f.broken {
		return nil
	}
	return f.cut(0)
}

// probeSize is the size of a large entry, in bytes.
const probeSize = 16 << 10

// probe writes and syncs an entry without effect, and truncates it away again.
func (f *file) probe() error {
	if p := &f.probes; p.frame == nil || p.seq != f.seq+1 {
		frame, err := encodeFrame(operation{kind: kindProbe, data: make([]byte, probeSize)}, f.key, filepath.Base(f.path), f.seq+1)
		if err != nil {
			return err
		}
		f.probes = probeFrame{f.seq + 1, frame}
	}
	size, seq := f.size, f.seq
	if err := f.write(f.probes.frame); err != nil {
		return err
	}
	if err := f.sync(); err != nil {
		return err
	}
	f.seq = seq
	return f.cut(size)
}

// append writes a frame. If that fails, the file stays as it was or is broken.
func (f *file) append(op operation) error {
	frame, err := encodeFrame(op, f.key, filepath.Base(f.path), f.seq+1)
	if err != nil {
		return err
	}
	return f.write(frame)
}

// write writes the frame after the last one.
func (f *file) write(frame []byte) error {
	if _, err := f.disk.WriteAt(f.handle, frame, f.size); err != nil {
		return errors.Join(fmt.Errorf("writing the journal: %w", err), f.cut(f.size))
	}
	f.size += int64(len(frame))
	f.seq++
	return nil
}

// sync makes the appended frames durable. After a failure the file is broken: reads may show
// pages from the cache that never reached the disk.
func (f *file) sync() error {
	if err := f.disk.Sync(f.handle); err != nil {
		f.broken = true
		return fmt.Errorf("syncing the journal: %w", err)
	}
	return nil
}

// cut truncates the file to size, and syncs it unless it is empty: the next frame starts in
// the last block, and after a crash the removed frames could otherwise follow it.
func (f *file) cut(size int64) error {
	if err := f.disk.Truncate(f.handle, size); err != nil {
		f.broken = true
		return fmt.Errorf("truncating the journal: %w", err)
	}
	f.size = size
	if size == 0 {
		return nil
	}
	return f.sync()
}

// wasteful reports whether a large file consists mostly of removed entries.
func (f *file) wasteful() bool {
	const large = 1 << 20
	if f.size < large {
		return false
	}
	var used int64
	for id, data := range f.live {
		used += int64(len(id) + len(data) + maxOverhead)
	}
	return f.size > 4*used
}

func (f *file) close() error { return errors.Join(unlock(f.handle), f.handle.Close()) }

// discard deletes the file and closes it, in that order where the system allows it, so that
// the file is still locked when it is deleted.
func (f *file) discard() error {
	if !f.isInPlace() {
		return f.close()
	}
	if runtime.GOOS == "windows" {
		return errors.Join(f.close(), os.Remove(f.path))
	}
	return errors.Join(os.Remove(f.path), f.close())
}
