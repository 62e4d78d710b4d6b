package pace

import (
	"container/heap"
	"sync/atomic"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/internal/clock"
)

// A Ticket is the place of a refresh in the queue. The queue's mu guards it.
type Ticket struct {
	queue    *Queue
	endpoint *endpoint
	rank     atomic.Int32 // a Rank
	due      time.Time
	begin    func()
	index    int           // in the heap of its rank; -1: it does not wait
	awaited  bool          // a caller waited for it when it began
	begunAt  clock.Instant // once it has begun
}

// Raise gives a waiting refresh that rank, unless it has a lower one.
func (t *Ticket) Raise(rank Rank) {
	if rank >= Rank(t.rank.Load()) {
		return // without the lock: each call with a token that is due does this
	}
	t.queue.mu.Lock()
	defer t.queue.mu.Unlock()
	if rank < Rank(t.rank.Load()) && t.index >= 0 {
		t.endpoint.remove(t)
		t.rank.Store(int32(rank))
		t.endpoint.push(t)
	}
}

// Hurry begins a waiting refresh now, because a caller waits for it. It does nothing if its
// turn has just come.
func (t *Ticket) Hurry(now clock.Instant) {
	t.queue.mu.Lock()
	defer t.queue.mu.Unlock()
	if t.index >= 0 {
		t.endpoint.remove(t)
		t.awaited = true
		t.endpoint.begin(t, now)
	}
}

// End notes that a refresh has ended that had begun. sent says that it may have sent a request.
func (t *Ticket) End(sent bool) {
	now := clock.InstantOf(t.queue.clock)
	t.queue.mu.Lock()
	t.endpoint.end(t, sent)
	begun := t.queue.dispatch(t.endpoint, now)
	t.queue.mu.Unlock()
	beginAll(begun)
}

// tickets are those that wait: a heap, with the one that is due first on top.
type tickets []*Ticket

// Len implements [heap.Interface].
func (h tickets) Len() int { return len(h) }

// Less implements [heap.Interface].
func (h tickets) Less(i, j int) bool { return h[i].due.Before(h[j].due) }

// Swap implements [heap.Interface].
func (h tickets) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push implements [heap.Interface].
func (h *tickets) Push(x any) {
	t := x.(*Ticket)
	t.index = len(*h)
	*h = append(*h, t)
}

// Pop implements [heap.Interface].
func (h *tickets) Pop() any {
	last := len(*h) - 1
	t := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	t.index = -1
	return t
}

var _ heap.Interface = (*tickets)(nil)
