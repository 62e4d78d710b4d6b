// Package verifying compares rows of a file with the connections of a running broker. It sends
// hashes of the tokens with a new key, not the tokens.
package verifying

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tokenbroker/caddy-token-broker/broker/transfer"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/command/client"
)

// Rows are the rows to verify, such as a [transfer.Reader].
type Rows interface {
	// Read returns the next row. The error is [io.EOF] at the end, and a [*transfer.LineError] if
	// only one row is at fault.
	Read() (*transfer.Row, error)
	// Line returns the number of the line that Read read last. It counts from 1.
	Line() int
}

// Options say what to verify, and how.
type Options struct {
	Client      *client.Client
	Application string // that Client acts as
	Rows        Rows
	Results     string // file for the rows that are not the same; empty: none
	Probe       bool   // try each connection with one request
	ProbeRate   int    // of these requests, per second
	Out         io.Writer
}

const (
	batchRows   = 500 // in one request
	parallel    = 4   // requests at a time
	maxAttempts = 8   // to have a row compared that the broker puts off
	minWait     = 250 * time.Millisecond
)

// A verification is one run.
type verification struct {
	*Options
	tally   *tally
	results *results
	prober  *prober // nil: nothing is tried
	salt    []byte
}

// Run verifies all rows and prints the counts. Its error says if any row is not as in the
// file.
func Run(ctx context.Context, o Options) error {
	v := &verification{Options: &o, tally: newTally(), salt: make([]byte, 32)}
	_, _ = rand.Read(v.salt) // never fails
	if o.Probe {
		v.prober = newProber(o.Client, o.ProbeRate)
		defer v.prober.stop()
	}
	var err error
	if v.results, err = createResults(o.Results); err != nil {
		return err
	}
	err = errors.Join(v.all(ctx), v.results.close())
	if err != nil && !v.tally.hasCompared() { // counts of nothing would hide the error
		return err
	}
	v.tally.print(o.Out)
	v.tally.printReasons(o.Out)
	if err != nil {
		return err
	}
	return v.tally.verdict()
}

// all reads the rows and sends them in batches.
func (v *verification) all(ctx context.Context) error {
	work, ctx := errgroup.WithContext(ctx)
	work.SetLimit(parallel)
	err := v.read(func(batch []*item) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		work.Go(func() error { return v.compare(ctx, batch) })
		return nil
	})
	if failed := work.Wait(); failed != nil {
		return failed
	}
	return err
}

// read calls send for each batch of rows.
func (v *verification) read(send func([]*item) error) error {
	var batch []*item
	for {
		row, err := v.Rows.Read()
		bad, isBad := errors.AsType[*transfer.LineError](err)
		switch {
		case errors.Is(err, io.EOF):
			if len(batch) == 0 {
				return nil
			}
			return send(batch)
		case isBad:
			v.settle(&item{line: bad.Line, Result: resultUnreadable, Error: bad.Err.Error()})
			continue
		case err != nil:
			return err
		}
		it := newItem(row, v.Rows.Line(), v.salt)
		if row.App != "" && row.App != v.Application {
			it.Result, it.Error = resultFailed, fmt.Sprintf("the row is of the application %s, not of --app", row.App)
			v.settle(it)
			continue
		}
		if batch = append(batch, it); len(batch) == batchRows {
			if err := send(batch); err != nil {
				return err
			}
			batch = nil
		}
	}
}

// compare has the broker compare the rows, and tries the connections.
func (v *verification) compare(ctx context.Context, batch []*item) error {
	for attempt := 1; len(batch) > 0; attempt++ {
		later, err := v.once(ctx, batch)
		if err != nil {
			return err
		}
		if batch = later; len(batch) == 0 || attempt == maxAttempts {
			break
		}
		if err := client.Sleep(ctx, minWait<<attempt); err != nil {
			return err
		}
	}
	for _, it := range batch { // the broker has put them off each time
		it.Result = resultFailed
		v.settle(it)
	}
	return nil
}

// once sends the rows once, and returns those that the broker puts off.
func (v *verification) once(ctx context.Context, batch []*item) (later []*item, err error) {
	request := struct {
		Salt        string  `json:"salt"`
		Connections []names `json:"connections"`
	}{Salt: hex.EncodeToString(v.salt)}
	for _, it := range batch {
		request.Connections = append(request.Connections, it.names)
	}
	var response struct {
		Data []answer `json:"data"`
	}
	if err := v.Client.Do(ctx, http.MethodPost, "/vault/connections/verify", &request, &response); err != nil {
		return nil, err
	}
	if len(response.Data) != len(batch) {
		return nil, fmt.Errorf("the server answers for %d of %d rows: check --to", len(response.Data), len(batch))
	}
	for i, it := range batch {
		a := &response.Data[i]
		it.note(a)
		if a.Status == http.StatusServiceUnavailable {
			later = append(later, it)
			continue
		}
		if v.prober != nil && it.exists() {
			if err := v.prober.try(ctx, it, a.ProbeURL); err != nil {
				return nil, err
			}
		}
		v.settle(it)
	}
	return later, nil
}

// settle counts a row whose result is known, and notes it if it is not as in the file.
func (v *verification) settle(it *item) {
	v.tally.add(it)
	v.results.add(it)
}
