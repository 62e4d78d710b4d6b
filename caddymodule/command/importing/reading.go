package importing

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/transfer"
)

// all reads all rows.
func (r *reading) all(ctx context.Context) error {
	for {
		if ctx.Err() != nil {
			return errStopped
		}
		rec, err := r.source.Read()
		if errors.Is(err, io.EOF) {
			if r.progress.rows() == 0 {
				return fmt.Errorf("%s has a header and no rows", r.options.Path)
			}
			return r.flush(ctx)
		}
		if rec == nil {
			return fmt.Errorf("%s: after row %d: %w", r.options.Path, r.progress.rows(), err)
		}
		it, err := r.item(rec, err)
		if err != nil {
			return fmt.Errorf("%s: row %d: %w", r.options.Path, rec.Number, err)
		}
		r.progress.readRow()
		if r.ledger.isDone(rec.Number) {
			continue
		}
		if err := r.add(ctx, it); err != nil {
			return err
		}
	}
}

// item converts and checks a row. An error concerns the whole file.
func (r *reading) item(rec *transfer.Record, failure error) (*item, error) {
	it := &item{record: rec}
	var res *transfer.Result
	if failure == nil {
		res, failure = r.convert.Convert(rec)
	}
	if p, ok := errors.AsType[*transfer.RowError](failure); ok {
		it.refuse(string(p.Reason), p.Text)
		return it, nil
	}
	if failure != nil {
		return nil, failure
	}
	if res.Skipped != "" {
		it.skip(res.Skipped)
		return it, nil
	}
	it.key = res.Row.Key()
	if application := r.options.Application; application != "" {
		if app := res.Row.App; app != "" && app != application {
			it.skip("of another application")
			return it, nil
		}
		it.key.Application, res.Row.App = application, "" // the request's header says it
	}
	if p := r.options.Check.Refuse(res, time.Now()); p != nil {
		it.refuse(string(p.Reason), p.Text)
		return it, nil //nolint:nilerr // the error is that of the row
	}
	if !it.encode(res, r.options.RowsFile == "") {
		return it, nil
	}
	if r.options.RowsFile != "" {
		if _, err := transfer.ParseRow(it.body); err != nil { // as the broker and verify read it
			it.body = nil
			it.refuse(string(transfer.ReasonField), err.Error())
			return it, nil
		}
	}
	return it, r.findings.add(rec, res)
}

// add adds a row to the current batch.
func (r *reading) add(ctx context.Context, it *item) error {
	if b := r.current; b != nil && it.record.Number != b.span().Last+1 {
		// Rows between them were done in an earlier run: a batch has rows in sequence.
		if err := r.flush(ctx); err != nil {
			return err
		}
	}
	if r.current == nil {
		r.current = &batch{keys: make(map[uint64]struct{})}
	}
	r.current.add(it, r.seed)
	if !r.current.isFull() {
		return nil
	}
	return r.flush(ctx)
}

// flush hands on the current batch, when no batch in progress has one of its connections: rows
// of one connection would overtake each other. The broker keeps the order inside a batch.
func (r *reading) flush(ctx context.Context) error {
	b := r.current
	if r.current = nil; b == nil {
		return nil
	}
	if !r.flights.take(ctx, b) {
		return errStopped
	}
	select {
	case r.batches <- b:
		return nil
	case <-ctx.Done():
		return errStopped
	}
}
