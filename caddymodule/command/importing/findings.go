package importing

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/transfer"
)

// findings are what reading the file has shown about the rows that are sent: how expiries were
// read, and what is doubtful. An import that goes on reads the whole file again, so they are
// complete.
type findings struct {
	check      *transfer.Check
	zone       *time.Location
	units      map[transfer.Unit]*examples
	doubts     map[transfer.Reason]*examples
	duplicates *transfer.Duplicates
	verbose    io.Writer // nil unless each row is printed
}

func newFindings(o *Options) *findings {
	f := &findings{
		check: &o.Check, zone: o.Convert.Zone,
		units:      make(map[transfer.Unit]*examples),
		doubts:     make(map[transfer.Reason]*examples),
		duplicates: transfer.NewDuplicates(),
	}
	if f.zone == nil {
		f.zone = time.UTC
	}
	if o.Verbose {
		f.verbose = o.Out
	}
	return f
}

// examples are a count, and the first texts that were counted.
type examples struct {
	count int
	first []string
}

const maxExamples = 5

func addExample[K comparable](m map[K]*examples, key K, text func() string) {
	e := m[key]
	if e == nil {
		e = &examples{}
		m[key] = e
	}
	e.count++
	if len(e.first) < maxExamples {
		e.first = append(e.first, text())
	}
}

// add looks at a row that is sent.
func (f *findings) add(rec *transfer.Record, res *transfer.Result) error {
	if e := res.Expiry; e != nil {
		addExample(f.units, e.Unit, func() string { return f.explain(rec.Number, e) })
	}
	for _, p := range f.check.Doubts(res) {
		f.doubt(rec.Number, p.Reason, p.Text)
	}
	return f.duplicates.Add(res.Row, rec.Number)
}

// explain says how an expiry was read.
func (f *findings) explain(row int, e *transfer.Expiry) string {
	const most = 40
	text := e.Text
	if len(text) > most {
		text = text[:most] + "..."
	}
	switch e.Unit {
	case transfer.UnitLifetime:
		return fmt.Sprintf("row %d: %s %s is %s from the time of issue", row, e.Column, text, e.Lifetime)
	case transfer.UnitLocal:
		return fmt.Sprintf("row %d: %s %s is %s, taken for a time in %s", row, e.Column, text, e.At.Format(time.RFC3339), f.zone)
	default:
		return fmt.Sprintf("row %d: %s %s is %s", row, e.Column, text, e.At.Format(time.RFC3339))
	}
}

func (f *findings) doubt(row int, reason transfer.Reason, text string) {
	addExample(f.doubts, reason, func() string { return fmt.Sprintf("row %d", row) })
	if f.verbose != nil {
		fmt.Fprintf(f.verbose, "row %d: warning: %s\n", row, text)
	}
}

// finish looks for connections that are in the file more than once.
func (f *findings) finish() error {
	const most = 1 << 17 // that are sorted at a time
	type again struct{ row, first int }
	var found []again
	flush := func() {
		slices.SortFunc(found, func(a, b again) int { return a.row - b.row })
		for _, d := range found {
			f.doubt(d.row, transfer.ReasonDuplicate, fmt.Sprintf("row %d is of the same connection: the later row replaces the earlier one, unless both have the same refresh token and expiry", d.first))
		}
		found = found[:0]
	}
	err := f.duplicates.Each(func(row, first int) {
		if found = append(found, again{row, first}); len(found) == most {
			flush()
		}
	})
	flush()
	return err
}

func (f *findings) close() {
	_ = f.duplicates.Close() // a temporary file
}

// print writes the sections about expiries and doubts.
func (f *findings) print(out io.Writer) {
	printExamples(out, "Expiries were taken for:", f.units, "\n      ")
	printExamples(out, "Warnings:", f.doubts, ", ")
}

func printExamples[K ~string](out io.Writer, title string, m map[K]*examples, separator string) {
	if len(m) == 0 {
		return
	}
	fmt.Fprintf(out, "\n%s\n", title)
	for _, key := range slices.SortedFunc(maps.Keys(m), func(a, b K) int { return m[b].count - m[a].count }) {
		e := m[key]
		more := ""
		if e.count > len(e.first) && separator == ", " {
			more = ", ..."
		}
		first := separator
		if separator == ", " {
			first = ": "
		}
		fmt.Fprintf(out, "  %d  %s%s%s%s\n", e.count, key, first, strings.Join(e.first, separator), more)
	}
}
