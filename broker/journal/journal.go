// Package journal keeps token responses that the store did not accept on the local disk,
// encrypted. It implements [record.Journal].
//
// The directory, which all processes on a machine can share, holds
//
//	journal-<random>.log   the entries of one process, locked while it runs
//	key.json               the key of all entries, a Tink keyset in clear text
//
// A file whose lock is free belongs to a process that has ended. The first process to find
// it adopts it: locks it, yields its entries, and deletes it once all are removed. A crash
// during an append leaves a torn last frame, which is dropped: Put had not returned. Any
// other damage is an error, and the file stays. After a failed sync the content on disk is
// unknown, so the entries are written to a new file.
//
// Locks use flock(2), or LockFileEx on Windows. On systems that have neither, every write to
// the journal fails.
package journal

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"path/filepath"
	"sync/atomic"

	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// ErrClosed is returned by every method called after [Journal.Close].
var ErrClosed = errors.New("the journal is closed")

// A Config says where the journal is.
type Config struct {
	// Dir is the directory of the journal's files, on a local disk. It is created, with mode
	// 0700, at first use. Required.
	Dir string

	// Logger receives operational messages. If nil, they are discarded.
	Logger *slog.Logger
}

// A Journal holds the entries of this process and of those whose files it has adopted. It is
// safe for concurrent use. A method's context ends the wait for other callers; operations on
// the disk are not interrupted.
type Journal struct {
	dir  string
	log  *slog.Logger
	disk disk

	probes atomic.Uint64 // that have begun

	busy chan struct{} // a one-slot semaphore that guards the fields below; see acquire

	closed     bool
	probed     error     // the result of the latest probe
	key        tink.AEAD // nil until first use
	keyContent [32]byte  // the fingerprint of the key file that key is from
	sample     []byte    // a ciphertext made with key, to recognise it
	own        *file     // nil until the first write
	adopted    []*file   // files of processes that have ended; locked, not empty
}

// Open returns the journal in config.Dir. It does no I/O: the directory, the key and the
// process's file are created at first use.
func Open(config Config) *Journal {
	j := &Journal{dir: config.Dir, log: config.Logger, disk: osDisk{}, busy: make(chan struct{}, 1)}
	if j.log == nil {
		j.log = slog.New(slog.DiscardHandler)
	}
	return j
}

// acquire waits for the semaphore.
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

// Put implements [record.Journal]. It stores data under id, replacing an earlier entry; the
// entry is durable when Put returns nil. Errors: [ErrKey], [ErrClosed], or an error of the
// file system; the earlier entry is kept then.
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

// Remove implements [record.Journal]. The removal is not synced: after a crash of the
// machine the entry may be back.
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

// removeAdopted removes an entry from the adopted files, and deletes those that are empty
// then.
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

// Entries implements [record.Journal]. It yields the entries of this process and of those
// that have ended, whose files it adopts; then an error for each file that cannot be read.
// An id is yielded twice if two processes used it, or one died while copying its file.
// Errors: [ErrDamaged], [ErrKey], [ErrClosed], or an error of the file system.
//
// The loop body may use the journal.
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

// Close waits for other callers and releases the locks. Remaining entries stay for the next
// process; a file without entries is deleted.
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

// write runs do on the process's own file. If that leaves the file broken, it runs do once
// more on a new one.
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

// writable returns the process's own file. It creates one if there is none, or if the file
// is broken or no longer at its path, where the next process would look.
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

// renew creates a new file with the entries of the old one, which is deleted once the new
// one is durable.
func (j *Journal) renew() error {
	next, err := createFile(j.dir, j.key, j.disk)
	if err != nil {
		return fmt.Errorf("creating a file in the journal %s: %w", j.dir, err)
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
