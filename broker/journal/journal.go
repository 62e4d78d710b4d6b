// Package journal keeps on local disk, encrypted, what a store could not take: the
// [broker.Journal] of a process.
//
// The directory, which all processes of a machine can share, holds
//
//	journal-<random>.log   the entries of one process, locked as long as it lives
//	key.json               the key of all of them, a Tink keyset in clear text
//
// A file whose lock is free belongs to a process that is gone. Whoever finds one first
// adopts it: locks it, yields its entries, and deletes it when all are removed. A crash
// in the middle of an append leaves a torn last frame, which is dropped, since nobody
// was told that it was kept; any other damage is an error and the file stays. After a
// failed sync nobody knows what the disk has, so that a new file is begun.
//
// Locks are those of flock(2), LockFileEx on Windows; on systems with neither, the
// journal is never writable.
package journal

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"path/filepath"

	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// ErrClosed is returned by everything that is called after [Journal.Close].
var ErrClosed = errors.New("the journal is closed")

// A Config says where a journal is.
type Config struct {
	// Dir is the directory of the journal's files, on a disk of this machine. It is made,
	// with mode 0700, at first use. Required.
	Dir string

	// Logger takes what operators should know. Default: nobody.
	Logger *slog.Logger
}

// A Journal is the journal of one process, and of those that it has outlived. It is
// safe for concurrent use. A method's context ends the wait for other callers; what
// has been begun on the disk is finished.
type Journal struct {
	dir  string
	log  *slog.Logger
	disk disk

	busy chan struct{} // holds a token while somebody uses the fields below

	closed  bool
	key     tink.AEAD // nil until first use
	sample  []byte    // something that key has encrypted
	own     *file     // nil until there is something to write
	adopted []*file   // of processes that are gone; locked by this one, and not empty
}

// Open returns the journal in config.Dir. It does no I/O: the directory, the key and
// the process's file come at first use.
func Open(config Config) *Journal {
	j := &Journal{dir: config.Dir, log: config.Logger, disk: osDisk{}, busy: make(chan struct{}, 1)}
	if j.log == nil {
		j.log = slog.New(slog.DiscardHandler)
	}
	return j
}

// acquire waits until nobody else uses the journal.
func (j *Journal) acquire(ctx context.Context) (release func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case j.busy <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for the journal in %s: %w", j.dir, ctx.Err())
	}
	release = func() { <-j.busy }
	if j.closed {
		release()
		return nil, ErrClosed
	}
	return release, nil
}

// Check writes a probe of the size of a large entry, syncs it, and looks whether the
// key that the next process will find is the one in use. Errors: [ErrKey], [ErrClosed],
// or what the file system says.
func (j *Journal) Check(ctx context.Context) error {
	release, err := j.acquire(ctx)
	if err != nil {
		return err
	}
	defer release()
	if err := j.loadKey(); err != nil {
		return err
	}
	return j.write((*file).probe)
}

// Put keeps data under id, in place of what was kept there; it is durable when Put
// returns nil. Errors: [ErrKey], [ErrClosed], or what the file system says; what was
// kept before is still kept then.
func (j *Journal) Put(ctx context.Context, id string, data []byte) error {
	release, err := j.acquire(ctx)
	if err != nil {
		return err
	}
	defer release()
	if err := j.write(func(f *file) error { return f.put(id, data) }); err != nil {
		return err
	}
	if err := j.removeAdopted(id); err != nil {
		j.warn(ctx, "a replaced entry of the journal could not be removed", err)
	}
	if j.own.wasteful() {
		if err := j.renew(); err != nil {
			j.warn(ctx, "the journal could not be compacted", err)
		}
	}
	return nil
}

// Remove forgets an entry. That is not synced: after a crash of the machine it may be
// there again.
func (j *Journal) Remove(ctx context.Context, id string) error {
	release, err := j.acquire(ctx)
	if err != nil {
		return err
	}
	defer release()
	if j.own != nil {
		err = j.own.remove(id)
	}
	return errors.Join(err, j.removeAdopted(id))
}

// removeAdopted removes an entry from the files of other processes, and those files
// that have become empty.
func (j *Journal) removeAdopted(id string) error {
	var errs []error
	kept := j.adopted[:0]
	for _, f := range j.adopted {
		errs = append(errs, f.remove(id))
		if len(f.live) == 0 {
			errs = append(errs, f.discard())
			continue
		}
		kept = append(kept, f)
	}
	clear(j.adopted[len(kept):])
	j.adopted = kept
	return errors.Join(errs...)
}

// Entries yields the entries of this process and of those that are gone, whose files
// it adopts; files that cannot be read yield an error each, after all entries. The
// same id comes twice if two processes have used it, or one died while it copied its
// file. Errors: [ErrDamaged], [ErrKey], [ErrClosed], or what the file system says.
//
// While it is ranged over, the journal can be used.
func (j *Journal) Entries(ctx context.Context) iter.Seq2[record.JournalEntry, error] {
	return func(yield func(record.JournalEntry, error) bool) {
		entries, errs := j.collect(ctx)
		for _, entry := range entries {
			if !yield(entry, nil) {
				return
			}
		}
		for _, err := range errs {
			if !yield(record.JournalEntry{}, err) {
				return
			}
		}
	}
}

func (j *Journal) collect(ctx context.Context) ([]record.JournalEntry, []error) {
	release, err := j.acquire(ctx)
	if err != nil {
		return nil, []error{err}
	}
	defer release()
	entries, errs := j.adopt(ctx)
	for _, f := range j.adopted {
		entries = appendEntries(entries, f.live)
	}
	if j.own != nil {
		entries = appendEntries(entries, j.own.live)
	}
	return entries, errs
}

func appendEntries(entries []record.JournalEntry, live map[string][]byte) []record.JournalEntry {
	for id, data := range live {
		entries = append(entries, record.JournalEntry{ID: id, Data: append([]byte(nil), data...)})
	}
	return entries
}

// Close waits for who uses the journal and gives its locks back. What was not removed
// stays for the next process; a file without entries is deleted.
func (j *Journal) Close() error {
	j.busy <- struct{}{}
	defer func() { <-j.busy }()
	j.closed = true
	var errs []error
	for _, f := range j.adopted {
		errs = append(errs, f.close())
	}
	if j.own != nil && len(j.own.live) == 0 {
		errs = append(errs, j.own.discard())
	} else if j.own != nil {
		errs = append(errs, j.own.close())
	}
	j.adopted, j.own = nil, nil
	return errors.Join(errs...)
}

// write runs do on the process's own file, and once more on a new one if the disk has
// failed in a way that the first cannot be trusted after.
func (j *Journal) write(do func(*file) error) error {
	f, err := j.writable()
	if err != nil {
		return err
	}
	if err = do(f); err == nil || !f.broken {
		return err
	}
	if renewed := j.renew(); renewed != nil {
		return errors.Join(err, renewed)
	}
	return do(j.own)
}

// writable returns the process's own file, a new one if there is none that can be
// written to and that a later process would find.
func (j *Journal) writable() (*file, error) {
	usable := j.own != nil && j.own.isInPlace()
	if !usable || j.key == nil {
		if err := j.loadKey(); err != nil {
			return nil, err
		}
	}
	if !usable || j.own.broken {
		if err := j.renew(); err != nil {
			return nil, err
		}
	}
	return j.own, nil
}

// renew begins a new file with the entries of the old one, which goes when the new one
// is durable.
func (j *Journal) renew() error {
	next, err := createFile(j.dir, j.key, j.disk)
	if err != nil {
		return fmt.Errorf("making a file in the journal %s: %w", j.dir, err)
	}
	old := j.own
	if old != nil {
		if err := next.putAll(maps.All(old.live)); err != nil {
			return errors.Join(err, next.discard())
		}
	}
	j.own = next
	if old != nil {
		if err := old.discard(); err != nil {
			j.warn(context.Background(), "an old file of the journal could not be removed", err)
		}
	}
	return nil
}

func (j *Journal) warn(ctx context.Context, msg string, err error) {
	j.log.LogAttrs(ctx, slog.LevelWarn, msg, slog.String("directory", j.dir), slog.String("error", err.Error()))
}

func (j *Journal) keyPath() string { return filepath.Join(j.dir, keyName) }

var _ record.Journal = (*Journal)(nil)
