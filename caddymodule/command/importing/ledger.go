package importing

import (
	"errors"
	"fmt"
	"io"
	"sync"
)

// A ledger records the outcomes of rows: it counts them, keeps the refused rows, and saves how
// far the import is. It writes nothing before the broker has answered a batch: a wrong key
// must not cost the refused rows of an earlier import, in which some may have been mended.
type ledger struct {
	file    stateFile
	earlier state     // of the run that was interrupted; does not change
	verbose io.Writer // nil unless each row is printed

	mu      sync.Mutex
	state   state        // guarded by mu
	refused *refusedFile // guarded by mu
	isOpen  bool         // guarded by mu; files are written
	held    []*batch     // guarded by mu; batches without a row to send, until then
}

// maxHeld bounds the batches that are held. A file of which so many rows in sequence are refused
// here is written about without an answer.
const maxHeld = 8

// openLedger goes on with the ledger of an interrupted import, or begins one.
func openLedger(in *input, o *Options) (*ledger, error) {
	l := &ledger{}
	if o.Verbose {
		l.verbose = o.Out
	}
	var err error
	if l.refused, err = newRefused(o.results()); err != nil {
		return nil, err
	}
	if in.file == nil || o.stream || o.DryRun || o.RowsFile != "" {
		return l, nil
	}
	l.file.path = statePath(o.results())
	same, err := newFingerprint(in, o)
	if err != nil {
		return nil, err
	}
	saved, err := l.file.load(same)
	if err != nil {
		return nil, err
	}
	if saved != nil {
		l.earlier, l.state, l.isOpen = saved.clone(), *saved, true
		moved, err := l.refused.resume(saved.Refused, saved.Next)
		if err != nil {
			return nil, err
		}
		if moved {
			l.state.Moved, l.state.Refused, l.state.Next = saved.Tally.total().Refused, mark{}, mark{}
		}
	}
	l.state.Input = same
	return l, nil
}

// isDone reports whether an earlier run has done a row.
func (l *ledger) isDone(row int) bool { return l.earlier.has(row) }

// settle notes the outcome of a batch's rows.
func (l *ledger) settle(b *batch) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.isOpen && b.sent == 0 && len(l.held) < maxHeld {
		l.held = append(l.held, b)
		return nil
	}
	if err := l.open(); err != nil {
		return err
	}
	return l.write(b)
}

// open makes the files this import's. Call it with mu locked.
func (l *ledger) open() error {
	if l.isOpen {
		return nil
	}
	if err := l.refused.setAside(); err != nil {
		return err
	}
	l.isOpen = true
	for _, b := range l.held {
		if err := l.write(b); err != nil {
			return err
		}
	}
	l.held = nil
	return nil
}

// write writes the outcome of a batch's rows. Call it with mu locked.
func (l *ledger) write(b *batch) error {
	var lines []byte
	for _, it := range b.items {
		if it.outcome == outcomeRefused {
			lines = it.record.AppendRefused(lines, errors.New(it.text))
		}
	}
	if len(lines) > 0 {
		l.state.Next = l.refused.with(lines)
		if err := l.file.save(&l.state); err != nil {
			return err
		}
		if err := l.refused.append(lines); err != nil {
			return err
		}
		l.state.Refused = l.state.Next
	}
	for _, it := range b.items {
		l.state.Tally.add(it)
		if l.verbose != nil {
			fmt.Fprintln(l.verbose, it)
		}
	}
	l.state.add(b.span())
	return l.file.save(&l.state)
}

// String returns the line about a row.
func (it *item) String() string {
	line := fmt.Sprintf("row %d", it.record.Number)
	if it.key.Consumer != "" {
		line += " " + it.key.String()
	}
	line += ": " + string(it.outcome)
	if it.queued {
		line += ", refresh queued"
	}
	if it.text != "" {
		line += ": " + it.text
	}
	if it.warning != "" {
		line += "; warning: " + it.warning
	}
	return line
}

// close closes the files. When the import is done, its state is no longer needed.
func (l *ledger) close(done bool) (err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if done {
		err = l.open() // the rows that are held are all there are
	}
	if err = errors.Join(err, l.refused.close()); err != nil || !done {
		return err
	}
	return errors.Join(l.refused.removeSame(), l.file.remove())
}

// isUnfinished reports whether an import is interrupted that can go on.
func (l *ledger) isUnfinished() bool { return l.file.path != "" && l.file.exists() }

// total returns the sums so far.
func (l *ledger) total() counts {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state.Tally.total()
}
