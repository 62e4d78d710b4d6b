package importing

import (
	"errors"
	"fmt"
	"io"
	"sync"
)

// A ledger records the outcomes of rows: it counts them, keeps the refused rows, and saves how
// far the import is.
type ledger struct {
	file    stateFile
	earlier state     // of the run that was interrupted; does not change
	verbose io.Writer // nil unless each row is printed

	mu      sync.Mutex
	state   state        // guarded by mu
	refused *refusedFile // guarded by mu
}

// openLedger goes on with the ledger of an interrupted import, or begins one.
func openLedger(in *input, o *Options) (*ledger, error) {
	l := &ledger{}
	if o.Verbose {
		l.verbose = o.Out
	}
	if in.file != nil && !o.stream && !o.DryRun && o.RowsFile == "" {
		l.file.path = o.results() + ".state"
		same, err := newFingerprint(in, o)
		if err != nil {
			return nil, err
		}
		saved, err := l.file.load(same)
		if err != nil {
			return nil, err
		}
		if saved != nil {
			l.earlier, l.state = *saved, *saved
		}
		l.state.Input = same
	}
	var err error
	if l.refused, err = openRefused(o.results(), l.state.Refuse); err != nil {
		return nil, err
	}
	return l, l.file.save(&l.state)
}

// isDone reports whether an earlier run has done a row.
func (l *ledger) isDone(row int) bool { return l.earlier.has(row) }

// settle notes the outcome of a batch's rows.
func (l *ledger) settle(b *batch) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var lines []byte
	for _, it := range b.items {
		l.state.Tally.add(it)
		if it.outcome == outcomeRefused {
			lines = it.record.AppendRefused(lines, errors.New(it.text))
		}
		if l.verbose != nil {
			fmt.Fprintln(l.verbose, it)
		}
	}
	if err := l.refused.append(lines); err != nil {
		return err
	}
	l.state.Refuse = l.refused.size
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
func (l *ledger) close(done bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.refused.close()
	if done {
		err = errors.Join(err, l.file.remove())
	}
	return err
}

// total returns the sums so far.
func (l *ledger) total() counts {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state.Tally.total()
}
