package storequeue

import (
	"context"
	"iter"
	"slices"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// ListBehind yields the keys of one application, or of one of its consumers, behind after, in
// an order that never changes; all if after is zero. The keys of an application are not read from
// the first on, unless the store is not a [record.ResumableStore].
func (s *Store) ListBehind(ctx context.Context, application, consumer string, after record.Key) iter.Seq2[record.Key, error] {
	if _, ok := s.store.(record.ResumableStore); !ok || consumer != "" {
		return s.listSorted(ctx, application, consumer, after)
	}
	return func(yield func(record.Key, error) bool) {
		if after == (record.Key{}) {
			after.Application = application
		}
		for key, err := range s.ListAfter(ctx, after) {
			if err == nil && key.Application != application || !yield(key, err) {
				return
			}
		}
	}
}

// listSorted is ListBehind for few keys.
func (s *Store) listSorted(ctx context.Context, application, consumer string, after record.Key) iter.Seq2[record.Key, error] {
	return func(yield func(record.Key, error) bool) {
		var keys []record.Key
		for key, err := range s.List(ctx, application, consumer) {
			if err != nil {
				yield(record.Key{}, err)
				return
			}
			if key.Compare(after) > 0 {
				keys = append(keys, key)
			}
		}
		slices.SortFunc(keys, record.Key.Compare)
		for _, key := range keys {
			if !yield(key, nil) {
				return
			}
		}
	}
}
