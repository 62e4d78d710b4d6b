package storequeue

import "container/heap"

// items are the waiting requests of a class: a heap, with the one that is due first on top.
type items []*item

// Len implements [heap.Interface].
func (h items) Len() int { return len(h) }

// Less implements [heap.Interface].
func (h items) Less(i, j int) bool {
	if !h[i].due.Equal(h[j].due) {
		return h[i].due.Before(h[j].due)
	}
	return h[i].sequence < h[j].sequence
}

// Swap implements [heap.Interface].
func (h items) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push implements [heap.Interface].
func (h *items) Push(x any) {
	it := x.(*item)
	it.index = len(*h)
	*h = append(*h, it)
}

// Pop implements [heap.Interface].
func (h *items) Pop() any {
	last := len(*h) - 1
	it := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	it.index = -1
	return it
}

var _ heap.Interface = (*items)(nil)
