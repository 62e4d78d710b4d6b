package priority_test

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/internal/priority"
)

type item struct {
	priority.Place
	rank int
}

// Before implements [priority.Item].
func (i *item) Before(other *item) bool { return i.rank < other.rank }

// The queue agrees with a sorted list, however items come, go and change.
func TestQueueKeepsTheOrder(t *testing.T) {
	t.Parallel()
	var q priority.Queue[*item]
	var all []*item
	for range 20_000 {
		switch n := rand.N(len(all) + 5); {
		case n >= len(all) || len(all) == 0:
			added := &item{rank: rand.N(50)}
			q.Push(added)
			all = append(all, added)
		case rand.N(20) == 0:
			all[n].rank = rand.N(50)
			q.Reorder()
		case len(all) > 30 || rand.N(3) == 0:
			q.Remove(all[n])
			if all[n].IsTaken() {
				t.Fatal("an item that was removed is still in a queue")
			}
			all = slices.Delete(all, n, n+1)
		}
		if q.Len() != len(all) || slices.ContainsFunc(all, func(i *item) bool { return !i.IsTaken() }) {
			t.Fatalf("%d items are in the queue, want %d", q.Len(), len(all))
		}
		ranks := make([]int, 0, len(all))
		for i := range q.All() {
			ranks = append(ranks, i.rank)
		}
		slices.Sort(ranks)
		if len(ranks) > 0 && q.First().rank != ranks[0] {
			t.Fatalf("%d comes first, want %d", q.First().rank, ranks[0])
		}
		if len(ranks) > 1 && (q.Second().rank != ranks[1] || q.Second() == q.First()) {
			t.Fatalf("%d comes second, want %d", q.Second().rank, ranks[1])
		}
	}
}
