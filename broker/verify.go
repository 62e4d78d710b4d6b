package broker

import (
	"context"
	"errors"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// A RowVerified is the result of one row of a verification.
type RowVerified struct {
	Verdict    record.Verdict     // empty if Err is set
	Connection *record.Connection // nil if it is missing
	Err        error
}

// VerifyAll compares the stored tokens of connections with those that rows name by their
// hashes with key. It reads each record once, several at a time. The results have the order
// of the rows.
//
// Shortly before ctx ends no further row begins. The error of a row that was not begun is
// [ErrNotBegun]; others are [record.ErrConnectorNotFound] and [record.ErrStoreUnavailable].
func (b *Broker) VerifyAll(ctx context.Context, rows []record.VerifyRow, key []byte) []RowVerified {
	results := make([]RowVerified, len(rows))
	numbers := make([]int, len(rows))
	for n := range numbers {
		numbers[n] = n
	}
	inBatches(numbers, func(n int) {
		if isNearlyOver(ctx) {
			results[n].Err = ErrNotBegun
			return
		}
		results[n] = b.verify(ctx, &rows[n], key)
	})
	return results
}

// verify reads the record from the store, not from memory: what matters is what is stored.
func (b *Broker) verify(ctx context.Context, row *record.VerifyRow, key []byte) RowVerified {
	conn, err := b.Config().ConnectorOf(row.Key)
	if err != nil {
		return RowVerified{Err: err}
	}
	rec, _, err := b.engine.Load(ctx, row.Key)
	switch {
	case errors.Is(err, record.ErrNotFound), err == nil && rec.IsTombstone():
		return RowVerified{Verdict: record.VerdictMissing}
	case err != nil:
		return RowVerified{Err: err}
	}
	view := rec.View(&conn.Definition, b.engine.Now())
	verdict := record.VerdictDifferent
	if rec.Has(row, key) {
		verdict = record.VerdictSame
	}
	return RowVerified{Verdict: verdict, Connection: &view}
}
