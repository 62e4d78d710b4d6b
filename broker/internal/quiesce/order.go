package quiesce

import (
	"context"
	"iter"

	"golang.org/x/sync/errgroup"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// A Selection says which connections of a store are meant. The zero value means all.
type Selection struct {
	Application string       // empty: all
	Connector   connector.ID // zero: all
}

// Keys yields the keys of the selected connections, tombstones included, in the store's order. It
// leaves out the broker's own records.
func (s Selection) Keys(ctx context.Context, store record.Store) iter.Seq2[record.Key, error] {
	return func(yield func(record.Key, error) bool) {
		for key, err := range store.List(ctx, s.Application, "") {
			if err == nil && (key.Application == record.OwnApplication || s.Connector != (connector.ID{}) && key.Connector != s.Connector) {
				continue
			}
			if !yield(key, err) || err != nil {
				return
			}
		}
	}
}

// How many requests to a store are in progress at a time, and how many keys are in memory.
const (
	parallel  = 32
	batchSize = 8 * parallel
)

// InOrder calls work for each key, several at a time, and emit with each result in the order of
// the keys. It keeps one batch in memory. emit may be nil.
func InOrder[T any](ctx context.Context, keys iter.Seq2[record.Key, error], work func(context.Context, record.Key) (T, error), emit func(T) error) error {
	batch := make([]record.Key, 0, batchSize)
	for key, err := range keys {
		if err != nil {
			return err
		}
		if batch = append(batch, key); len(batch) < batchSize {
			continue
		}
		if err := inOrder(ctx, batch, work, emit); err != nil {
			return err
		}
		batch = batch[:0]
	}
	return inOrder(ctx, batch, work, emit)
}

func inOrder[T any](ctx context.Context, batch []record.Key, work func(context.Context, record.Key) (T, error), emit func(T) error) error {
	results := make([]T, len(batch))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for i, key := range batch {
		group.Go(func() (err error) {
			results[i], err = work(ctx, key)
			return err
		})
	}
	if err := group.Wait(); err != nil || emit == nil {
		return err
	}
	for _, result := range results {
		if err := emit(result); err != nil {
			return err
		}
	}
	return nil
}
