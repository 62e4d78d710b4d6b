package pace

import (
	"sync/atomic"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/internal/clock"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/priority"
)

// A Ticket is the place of a refresh in the queue. The queue's mu guards it.
type Ticket struct {
	priority.Place // in the queue of its rank

	queue    *Queue
	endpoint *endpoint
	rank     atomic.Int32 // a Rank
	due      time.Time
	begin    func()
	awaited  bool          // a caller waited for it when it began
	begunAt  clock.Instant // once it has begun
}

// Before implements [priority.Item]. The one that is due first comes first.
func (t *Ticket) Before(other *Ticket) bool { return t.due.Before(other.due) }

// Raise gives a waiting refresh that rank, unless it has a lower one.
func (t *Ticket) Raise(rank Rank) {
	if rank >= Rank(t.rank.Load()) {
		return // without the lock: each call with a token that is due does this
	}
	t.queue.mu.Lock()
	defer t.queue.mu.Unlock()
	if rank < Rank(t.rank.Load()) && t.IsTaken() {
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
	if t.IsTaken() {
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
