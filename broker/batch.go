package broker

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

const (
	// maxBatch is how many rows of one batch are handled at a time. A store behind a network
	// is kept busy by that, and other callers wait behind no more than these.
	maxBatch = 32

	// batchReserve is how long before the deadline of a batch its last row begins, so that
	// rows that have begun also end.
	batchReserve = 5 * time.Second
)

// ErrNotBegun means that a row of a batch was not handled: the time of the batch was over, or
// an earlier row of the same connection failed and may be sent again.
var ErrNotBegun = errors.New("the row was not begun: send it again")

// A RowImported is the result of one import of a batch. One of its members is nil.
type RowImported struct {
	*Imported
	Err error
}

// ImportAll imports rows, several at a time; rows of the same connection one after the other,
// in their order. The results have the order of the rows. Each row is stored whole or not at
// all, whatever happens to others. With dryRun nothing is stored, as in a [DryRun].
//
// Shortly before ctx ends no further row begins. The error of a row that was not begun is
// [ErrNotBegun]; others are those of [Broker.Import].
func (b *Broker) ImportAll(ctx context.Context, rows []record.ImportRow, dryRun bool) []RowImported {
	importRow := b.Import
	if dryRun {
		importRow = b.NewDryRun().Import
	}
	results := make([]RowImported, len(rows))
	inBatches(sameConnection(rows), func(group []int) {
		var missed bool // a row that can be sent again, before which later ones must not be stored
		for _, n := range group {
			row, result := &rows[n], &results[n]
			switch {
			case row.Err != nil:
				result.Err = row.Err
			case missed || isNearlyOver(ctx):
				result.Err, missed = ErrNotBegun, true
			default:
				result.Imported, result.Err = importRow(ctx, row.Key, row.Import)
				missed = result.Err != nil && mayPass(result.Err)
			}
		}
	})
	return results
}

// sameConnection groups the numbers of rows by their connection. Groups and rows keep their
// order.
func sameConnection(rows []record.ImportRow) (groups [][]int) {
	at := make(map[record.Key]int, len(rows)) // in groups
	for n, row := range rows {
		i, ok := at[row.Key]
		if !ok || row.Err != nil {
			i = len(groups)
			groups = append(groups, nil)
		}
		if row.Err == nil {
			at[row.Key] = i
		}
		groups[i] = append(groups[i], n)
	}
	return groups
}

// mayPass reports whether the same import may succeed later.
func mayPass(err error) bool {
	_, input := errors.AsType[*record.InputError](err)
	return !input && !errors.Is(err, record.ErrConnectorNotFound) && !errors.Is(err, record.ErrRecordTooLarge)
}

// inBatches calls f for each item, for maxBatch of them at a time, and waits for all.
func inBatches[T any](items []T, f func(T)) {
	// One goroutine for many items: each new one would have to grow its stack again.
	var next atomic.Int64
	var work sync.WaitGroup
	for range min(maxBatch, len(items)) {
		work.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(items)); i = next.Add(1) - 1 {
				f(items[i])
			}
		})
	}
	work.Wait()
}

// isNearlyOver reports whether no further row of a batch may begin.
func isNearlyOver(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ctx.Err() != nil || ok && time.Until(deadline) < batchReserve
}
