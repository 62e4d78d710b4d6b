package importing

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
)

// report writes the report, and returns the error of the import.
func report(o *Options, l *ledger, f *findings, err error) error {
	t := &l.state.Tally
	if finish := f.finish(); finish != nil {
		err = errors.Join(err, finish)
	}
	if err != nil && t.isEmpty() && l.refused.aside == "" {
		return early(err)
	}
	fmt.Fprintln(o.Out, o.title()+"\n")
	printCounts(o.Out, t)
	printTexts(o.Out, "Skipped:", t.Skipped)
	printTexts(o.Out, "Refused:", t.Refused)
	f.print(o.Out)
	printTexts(o.Out, "Warnings of the broker:", t.Warnings)
	if t.Queued > 0 {
		fmt.Fprintf(o.Out, "\nRefreshes queued: %d\n", t.Queued)
	}
	if l.earlier.Done > 0 || len(l.earlier.Beyond) > 0 {
		fmt.Fprintf(o.Out, "\nThis run went on after row %d. Batches that were in progress at the interruption, at most one for each of --parallel, "+
			"were sent again: rows that they had stored count as updated or kept.\n", l.earlier.Done)
	}
	if o.RowsFile != "" {
		fmt.Fprint(o.Out, "\nNo broker has checked the rows. It can refuse some of them, such as those without tokens: --dry-run says which.\n")
	}
	refused := t.total().Refused
	printRefused(o, l, refused)
	switch {
	case errors.Is(err, errStopped) && l.file.path != "":
		return fmt.Errorf("interrupted after row %d: run the same command again to go on", l.state.Done)
	case err != nil:
		return err
	case refused > 0:
		return fmt.Errorf("refused rows: %d", refused)
	default:
		return nil
	}
}

// early returns the error of an import that has ended before the first batch was done.
func early(err error) error {
	if errors.Is(err, errStopped) {
		return errors.New("interrupted before the first rows were done")
	}
	return err
}

// printRefused says where the refused rows are.
func printRefused(o *Options, l *ledger, refused int) {
	if here := refused - l.state.Moved; here > 0 {
		fmt.Fprintf(o.Out, "\nThe refused rows are in %s, with their secrets: %d. ", o.results(), here)
		if l.isUnfinished() {
			fmt.Fprint(o.Out, "Leave that file as it is until the import is finished.\n")
		} else {
			fmt.Fprint(o.Out, "Mend them there and import that file with the same options.\n")
		}
	}
	if n := l.state.Moved; n > 0 {
		fmt.Fprintf(o.Out, "\nRefused rows in the file that was moved from %s: %d.\n", o.results(), n)
	}
	if l.refused.aside != "" {
		fmt.Fprintf(o.Out, "\nThe refused rows of an earlier import were in %s. They are now in %s.\n", o.results(), l.refused.aside)
	}
}

// title returns the first line of the report.
func (o *Options) title() string {
	if o.RowsFile != "" {
		return fmt.Sprintf("Conversion of %s into %s: CREATED counts the rows written", o.Path, o.RowsFile)
	}
	title := "Import"
	if o.DryRun {
		title = "Dry run of an import"
	}
	title += fmt.Sprintf(" of %s into %s for %s", o.Path, o.Target, o.Application)
	if o.Standby {
		title += ", in standby"
	}
	return title
}

func printCounts(out io.Writer, t *tally) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	line := func(name string, c counts) {
		fmt.Fprintf(w, "%d\t%d\t%d\t%d\t  %s\n", c.Created, c.Updated, c.Kept, c.Refused, name)
	}
	fmt.Fprintln(w, "CREATED\tUPDATED\tKEPT\tREFUSED\t  CONNECTOR")
	for _, name := range slices.Sorted(maps.Keys(t.Connectors)) {
		line(name, *t.Connectors[name])
	}
	line("all", t.total())
	_ = w.Flush() // the report is the last thing: nothing could be done
}

// printTexts writes texts with their counts, the most frequent first.
func printTexts(out io.Writer, title string, counts map[string]int) {
	if len(counts) == 0 {
		return
	}
	fmt.Fprintf(out, "\n%s\n", title)
	for _, text := range slices.SortedFunc(maps.Keys(counts), func(a, b string) int { return counts[b] - counts[a] }) {
		fmt.Fprintf(out, "  %d  %s\n", counts[text], text)
	}
}
