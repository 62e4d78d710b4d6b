package importing

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"

	"golang.org/x/sync/errgroup"

	"github.com/tokenbroker/caddy-token-broker/broker/transfer"
)

// Run imports the rows of the file. It writes the report even if it returns an error, which
// says how the import ended early, or how many rows were refused. When ctx ends, requests in
// progress are finished, and the import can go on later.
func Run(ctx context.Context, o Options) (err error) {
	if err := o.validate(); err != nil {
		return err
	}
	convert, err := transfer.NewConverter(o.Convert)
	if err != nil {
		return err
	}
	in, err := openInput(&o)
	if err != nil {
		return err
	}
	defer in.close()
	source, err := transfer.NewSource(in)
	if err != nil {
		return fmt.Errorf("%s: %w", o.Path, err)
	}
	if header := source.Header(); header != nil {
		if err := convert.CheckHeader(header); err != nil {
			return fmt.Errorf("%s: %w", o.Path, err)
		}
	}
	if o.RowsFile != "" {
		rows, failure := createRows(o.RowsFile)
		if failure != nil {
			return failure
		}
		defer func() { err = errors.Join(err, rows.close()) }()
		o.Do, o.Parallel = rows.do, 1
	}
	ledger, err := openLedger(in, &o)
	if err != nil {
		return err
	}
	findings := newFindings(&o)
	defer findings.close()
	p := newProgress(in, ledger, &o)
	err = read(ctx, &reading{options: &o, source: source, convert: convert, findings: findings, ledger: ledger, progress: p})
	p.stop()
	err = errors.Join(err, ledger.close(err == nil))
	if ctx.Err() != nil && errors.Is(err, errStopped) {
		err = errStopped
	}
	return report(&o, ledger, findings, err)
}

// A reading reads the file, and hands batches to those that send them.
type reading struct {
	options  *Options
	source   *transfer.Source
	convert  *transfer.Converter
	findings *findings
	ledger   *ledger
	progress *progress

	seed    maphash.Seed // of the hashes of connections
	current *batch
	batches chan *batch
	flights flights
}

// read reads the whole file, and returns when all of it is done.
func read(ctx context.Context, r *reading) error {
	group, sending := errgroup.WithContext(context.WithoutCancel(ctx))
	stopping, stop := context.WithCancelCause(sending)
	defer stop(nil)
	defer context.AfterFunc(ctx, func() { stop(errStopped) })()
	r.seed = maphash.MakeSeed()
	r.batches = make(chan *batch)
	r.flights.init()
	defer context.AfterFunc(stopping, r.flights.wake)()
	send := &sender{do: r.options.Do, target: r.options.Target}
	for range r.options.parallel() {
		group.Go(func() error {
			for b := range r.batches {
				err := send.send(stopping, b.pending())
				if err == nil {
					err = r.ledger.settle(b)
				}
				r.flights.land(b)
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	group.Go(func() error {
		defer close(r.batches)
		return r.all(stopping)
	})
	return group.Wait()
}
