package importing

import (
	"fmt"
	"io"
	"sync/atomic"
	"time"
)

// A progress says how far the import is: on a terminal in one line that it rewrites, elsewhere
// with a line now and then.
type progress struct {
	in      *input
	ledger  *ledger
	out     io.Writer
	columns func() int // nil unless one line is rewritten
	begun   time.Time
	read    atomic.Int64 // rows
	done    chan struct{}
	stopped chan struct{}
}

// newProgress starts it. Stop it.
func newProgress(in *input, l *ledger, o *Options) *progress {
	p := &progress{
		in: in, ledger: l, out: o.Err, columns: o.Columns, begun: time.Now(),
		done: make(chan struct{}), stopped: make(chan struct{}),
	}
	if o.Verbose {
		p.columns = nil // the lines about rows would be written behind it
	}
	go p.run()
	return p
}

func (p *progress) readRow()  { p.read.Add(1) }
func (p *progress) rows() int { return int(p.read.Load()) }

func (p *progress) run() {
	defer close(p.stopped)
	every := 10 * time.Second
	if p.columns != nil {
		every = 200 * time.Millisecond
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			if p.columns != nil {
				// A line that wraps could not be erased. The last column makes some terminals wrap.
				line := p.line()
				fmt.Fprint(p.out, "\r\x1b[K"+line[:min(len(line), max(p.columns()-1, 0))])
			} else {
				fmt.Fprintln(p.out, p.line())
			}
		case <-p.done:
			if p.columns != nil {
				fmt.Fprint(p.out, "\r\x1b[K") // the report follows
			}
			return
		}
	}
}

// stop ends it, and waits until it writes no more.
func (p *progress) stop() {
	close(p.done)
	<-p.stopped
}

// line returns the text: a bar if the size of the file is known, rows, speed and time left.
func (p *progress) line() string {
	const width = 20
	t := p.ledger.total()
	elapsed := time.Since(p.begun).Seconds()
	text := fmt.Sprintf("%d rows, %.0f/s: %d stored, %d kept, %d refused",
		p.rows(), float64(p.rows())/max(elapsed, 0.001), t.Created+t.Updated, t.Kept, t.Refused)
	if p.in.size <= 0 {
		return text
	}
	part := min(1, float64(p.in.read.Load())/float64(p.in.size))
	full := int(part * width)
	bar := fmt.Sprintf("[%-*s] %3.0f %% ", width, "####################"[:full], part*100)
	if part > 0.01 {
		left := time.Duration(elapsed * (1 - part) / part * float64(time.Second))
		text += fmt.Sprintf(", %s left", left.Round(time.Second))
	}
	return bar + text
}
