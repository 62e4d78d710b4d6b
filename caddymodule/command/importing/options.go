package importing

import (
	"context"
	"errors"
	"io"

	"github.com/tokenbroker/caddy-token-broker/broker/transfer"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/command/sealed"
)

// Options say what is imported, and how.
type Options struct {
	// Path is the file; "-" is Input.
	Path   string
	Input  io.Reader
	stream bool // Path is a pipe or a device: it cannot be read again, and nothing is beside it
	// Keys decrypt a file that age has encrypted.
	Keys sealed.Keys

	// Application is that of all rows. Rows that name another one are skipped. It may be empty
	// with RowsFile.
	Application string
	// Convert says how rows become connections.
	Convert transfer.Options
	// Check says which rows are not sent.
	Check transfer.Check

	// Target is the URL of the broker, for reports.
	Target string
	// Do sends a request to the broker, as [client.Client.Do] does. It also sends the headers
	// that Standby and DryRun stand for.
	Do      func(ctx context.Context, method, path string, body, into any) error
	Standby bool
	DryRun  bool
	// Parallel is the number of batches that are sent at a time; 0 means 4.
	Parallel int

	// RowsFile is the file to which canonical rows are written, in place of the broker; empty
	// for an import.
	RowsFile string

	// Results is the file of refused rows; empty means one beside Path.
	Results string
	// Verbose prints a line for each row.
	Verbose bool
	// Out receives the report, and Err progress and warnings.
	Out, Err io.Writer
	// Columns returns the width of the terminal that Err is, where one line of progress is
	// enough; nil elsewhere.
	Columns func() int
}

const defaultParallel = 4

func (o *Options) parallel() int {
	if o.Parallel > 0 {
		return o.Parallel
	}
	return defaultParallel
}

// results returns the path of the file of refused rows.
func (o *Options) results() string {
	switch {
	case o.Results != "":
		return o.Results
	case o.Path == "-", o.stream:
		return "import.refused.ndjson"
	case o.DryRun, o.RowsFile != "": // must not replace the file of an import that was interrupted
		return o.Path + ".dry-run.ndjson"
	default:
		return o.Path + ".refused.ndjson"
	}
}

func (o *Options) validate() error {
	if o.Path == "" {
		return errors.New("name the file to import, or - for standard input")
	}
	return o.Keys.Validate()
}
