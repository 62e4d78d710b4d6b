// Package priority has a queue that is ordered by importance, and that an item can leave from
// any place.
package priority

import (
	"container/heap"
	"iter"
	"slices"
)

// An Item can wait in a [Queue]. It embeds a [Place].
type Item[T any] interface {
	// Before reports whether the item comes before other. It must not change while the item is
	// in a queue, unless [Queue.Reorder] follows.
	Before(other T) bool

	placed
}

// placed is what a [Place] gives to the type that embeds it.
type placed interface{ place() *Place }

var _ placed = (*Place)(nil)

// A Place is where an item is in its queue. The zero Place is in none.
type Place struct{ number int } // one more than the index

// IsTaken reports whether the item is in a queue.
func (p *Place) IsTaken() bool { return p.number > 0 }

func (p *Place) place() *Place { return p }

// A Queue holds items, each at most once. The zero Queue is empty. Each change takes a time that
// grows with the logarithm of the length.
type Queue[T Item[T]] struct{ items items[T] }

// Len returns how many items are in the queue.
func (q *Queue[T]) Len() int { return len(q.items) }

// All yields the items in no order.
func (q *Queue[T]) All() iter.Seq[T] { return slices.Values(q.items) }

// First returns the item that comes first. There must be one.
func (q *Queue[T]) First() T { return q.items[0] }

// Second returns the item that comes after the first. There must be one.
func (q *Queue[T]) Second() T {
	if len(q.items) > 2 && q.items[2].Before(q.items[1]) {
		return q.items[2]
	}
	return q.items[1]
}

// Push adds an item.
func (q *Queue[T]) Push(item T) { heap.Push(&q.items, item) }

// Remove removes an item.
func (q *Queue[T]) Remove(item T) { heap.Remove(&q.items, item.place().number-1) }

// Reorder puts the items in order again after some have changed.
func (q *Queue[T]) Reorder() { heap.Init(&q.items) }

// items are a heap: no item comes before the one that is half as far from the start.
type items[T Item[T]] []T

// Len implements [heap.Interface].
func (h items[T]) Len() int { return len(h) }

// Less implements [heap.Interface].
func (h items[T]) Less(i, j int) bool { return h[i].Before(h[j]) }

// Swap implements [heap.Interface].
func (h items[T]) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place().number, h[j].place().number = i+1, j+1
}

// Push implements [heap.Interface].
func (h *items[T]) Push(x any) {
	item := x.(T)
	*h = append(*h, item)
	item.place().number = len(*h)
}

// Pop implements [heap.Interface].
func (h *items[T]) Pop() any {
	last := len(*h) - 1
	item := (*h)[last]
	*h = slices.Delete(*h, last, last+1) // and keep no reference
	item.place().number = 0
	return item
}
