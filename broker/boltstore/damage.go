package boltstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"

	"github.com/tokenbroker/caddy-token-broker/broker/boltstore/internal/boltfile"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// ErrDamaged means that a part of the database cannot be read, or is missing. The error's text
// names the file, the page if it is known, and the remedy.
var ErrDamaged = fmt.Errorf("the embedded %w", record.ErrDamaged)

// A contradiction says which two parts of the database do not fit together.
type contradiction string

func (c contradiction) Error() string { return string(c) }

// remedy is what to do about damage.
const remedy = "`token-broker store check` lists all damage; to save what can be read, stop the process and run `token-broker store rebuild`"

// damaged returns the error for a part that cannot be read.
func (d *database) damaged(what error) error { return damagedFile(d.path, what) }

func damagedFile(path string, what error) error {
	return fmt.Errorf("%w: %s: %w: %s", ErrDamaged, path, what, remedy)
}

// explain adds the file and the remedy to an error if it is about damage, and reports it.
func (d *database) explain(err error) error {
	var page *boltfile.PageError
	var parts contradiction
	switch {
	case err == nil || errors.Is(err, os.ErrClosed):
		return err
	case errors.Is(err, ErrDamaged):
	case errors.As(err, &page), errors.As(err, &parts):
		err = d.damaged(err)
	default:
		return err
	}
	d.faults.report(err)
	return err
}

// mended logs a damage that cost nothing, and that was repaired.
func (d *database) mended(err error) {
	d.faults.log.LogAttrs(context.Background(), slog.LevelError, "the store was damaged; nothing is lost, and it was repaired",
		slog.String("error", fmt.Sprintf("%s: %v", d.path, err)))
}

// maxReports is how many different faults are logged, and remembered.
const maxReports = 100

// faults are the damages that were found while the database is open. They last until it is
// opened again.
type faults struct {
	log *slog.Logger

	mu     sync.Mutex
	found  []error         // guarded by mu; the first maxReports
	seen   map[string]bool // texts of found; guarded by mu
	writes error           // why nothing may be written; guarded by mu
	all    error           // why nothing may be read either; guarded by mu
	stuck  bool            // bbolt may never release its locks; guarded by mu
}

// report logs a damage once.
func (f *faults) report(err error) {
	f.mu.Lock()
	text := err.Error()
	news := !f.seen[text] && len(f.found) < maxReports
	if news {
		if f.seen == nil {
			f.seen = make(map[string]bool)
		}
		f.seen[text] = true
		f.found = append(f.found, err)
	}
	f.mu.Unlock()
	if news {
		f.log.LogAttrs(context.Background(), slog.LevelError, "the store is damaged", slog.String("error", text))
	}
}

// forbidWrites lets no further change happen: it could destroy what is still readable. It returns
// err.
func (f *faults) forbidWrites(err error) error {
	f.report(err)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.writes == nil {
		f.writes = fmt.Errorf("the store takes no changes: %w", err)
	}
	return err
}

// breakWith lets the database be used no further. It returns err.
func (f *faults) breakWith(err error) error {
	f.report(err)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all = err
	return err
}

func (f *faults) broken() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.all
}

func (f *faults) readOnly() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.writes
}

// panic records that bbolt has panicked, and may never release its locks.
func (f *faults) panic() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stuck = true
}

func (f *faults) panicked() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stuck
}

// summary returns the faults for readiness, nil if there are none.
func (f *faults) summary() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch n := len(f.found); {
	case n == 0:
		return nil
	case n == 1:
		return f.found[0]
	default:
		return fmt.Errorf("%w (and %d more)", f.found[0], n-1)
	}
}
