package breaker

import (
	"container/heap"
	"slices"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// A queue has the connections that wait for a turn. To find the one that goes next must not cost
// more with each that waits: every call of a connection that is held back asks for it.
type queue struct {
	byKey  map[record.Key]*waiter
	order  waiters
	urgent int // how many waiters are
}

// len returns how many connections wait.
func (q *queue) len() int { return len(q.order) }

// put makes a connection wait, or replaces what is known of it.
func (q *queue) put(w *waiter) {
	if old := q.byKey[w.key]; old != nil {
		w.urgent, w.since = w.urgent || old.urgent, old.since
		q.remove(w.key)
	}
	if q.byKey == nil {
		q.byKey = make(map[record.Key]*waiter)
	}
	q.byKey[w.key] = w
	heap.Push(&q.order, w)
	if w.urgent {
		q.urgent++
	}
}

// remove ends the wait of a connection, if it waits.
func (q *queue) remove(key record.Key) {
	w := q.byKey[key]
	if w == nil {
		return
	}
	delete(q.byKey, key)
	heap.Remove(&q.order, w.index)
	if w.urgent {
		q.urgent--
	}
}

// blame sets the refusals of an application.
func (q *queue) blame(application string, refusals int) {
	for _, w := range q.order {
		if w.key.Application == application {
			w.blame = refusals
		}
	}
	heap.Init(&q.order)
}

// first returns the first waiter, nil if there is none. While others wait that is not the one
// to pass over.
func (q *queue) first(passOver func(*waiter) bool) *waiter {
	switch n := len(q.order); {
	case n == 0:
		return nil
	case n == 1 || !passOver(q.order[0]):
		return q.order[0]
	case n == 2 || q.order[1].compare(q.order[2]) <= 0:
		return q.order[1]
	default:
		return q.order[2]
	}
}

// keys returns the connections that wait, the first one first.
func (q *queue) keys() []record.Key {
	sorted := slices.SortedFunc(slices.Values(q.order), (*waiter).compare)
	keys := make([]record.Key, len(sorted))
	for i, w := range sorted {
		keys[i] = w.key
	}
	return keys
}

// waiters are a heap with the first by [waiter.compare] on top.
type waiters []*waiter

// Len implements [heap.Interface].
func (h waiters) Len() int { return len(h) }

// Less implements [heap.Interface].
func (h waiters) Less(i, j int) bool { return h[i].compare(h[j]) < 0 }

// Swap implements [heap.Interface].
func (h waiters) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push implements [heap.Interface].
func (h *waiters) Push(x any) {
	w := x.(*waiter)
	w.index = len(*h)
	*h = append(*h, w)
}

// Pop implements [heap.Interface].
func (h *waiters) Pop() any {
	last := len(*h) - 1
	w := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return w
}

// Interface guard
var _ heap.Interface = (*waiters)(nil)
