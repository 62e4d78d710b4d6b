package storequeue

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/internal/priority"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

const (
	maxWait     = 10 * time.Second // of a request until it begins
	maxIdleWait = 30 * time.Second // of class Idle

	busyAfter  = 100 * time.Millisecond // requests have been waiting without a break
	hangsAfter = 500 * time.Millisecond // a request has been at the store
	slowAfter  = time.Second            // a request had to wait until it began: the store is overloaded
	calmAfter  = 10 * time.Second       // no request had to wait that long
)

// errTooSlow ends the wait of a request that was not begun.
var errTooSlow = errors.New("it is slow, and too many requests wait for it")

// A queue holds the requests that are at the store, and those that wait.
type queue struct {
	report func(overloaded bool) // called without a lock held

	mu         sync.Mutex
	bound      bound                          // guarded by mu
	running    map[*item]struct{}             // guarded by mu; requests at the store
	waiting    [classes]priority.Queue[*item] // guarded by mu; in each the one that is due first comes first
	pending    int                            // guarded by mu; waiting requests of all classes
	since      time.Time                      // guarded by mu; when pending was last 0
	turn       bool                           // guarded by mu; a refresh is next, not a read
	sequence   uint64                         // guarded by mu
	overloaded bool                           // guarded by mu
	slowAt     time.Time                      // guarded by mu; when a request last had to wait for long
}

// An item is a request. Its queue's mu guards it.
type item struct {
	priority.Place // in waiting[class]

	queue    *queue
	ticket   *Ticket // may be nil
	class    Class
	due      time.Time
	sequence uint64
	asked    time.Time
	begun    time.Time     // zero: it waits, or was withdrawn
	alone    bool          // no other request has been at the store since it began
	ready    chan struct{} // closed when the request may begin or was abandoned
}

// Before implements [priority.Item].
func (it *item) Before(other *item) bool {
	if !it.due.Equal(other.due) {
		return it.due.Before(other.due)
	}
	return it.sequence < other.sequence
}

func newQueue(adaptive bool, report func(overloaded bool)) *queue {
	return &queue{report: report, bound: newBound(adaptive), running: make(map[*item]struct{})}
}

// enter waits until a request of ctx's class may begin. The caller must leave the queue when
// the request has ended.
func (q *queue) enter(ctx context.Context) (*item, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", record.ErrStoreUnavailable, err)
	}
	it := &item{queue: q, asked: time.Now(), ready: make(chan struct{})}
	defer q.tell()
	q.mu.Lock()
	q.sequence++
	it.sequence, it.due = q.sequence, it.asked
	it.class, it.ticket = classOf(ctx)
	if it.ticket != nil {
		if !it.ticket.due.IsZero() {
			it.due = it.ticket.due
		}
		it.ticket.item.Store(it) // before its class is read: a caller that comes or leaves then finds the item
		it.class = it.ticket.class()
		if it.ticket.isAbandoned() {
			q.mu.Unlock()
			return nil, ErrAbandoned
		}
	}
	wait := maxWait
	if it.class == Idle {
		wait = maxIdleWait
	}
	q.push(it)
	q.dispatch(it.asked)
	q.mu.Unlock()

	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-it.ready:
		return it.granted()
	case <-timer.C:
		return q.withdraw(it, errTooSlow)
	case <-ctx.Done():
		return q.withdraw(it, ctx.Err())
	}
}

// granted returns the item, whose ready is closed, if the request may begin.
func (it *item) granted() (*item, error) {
	if it.begun.IsZero() {
		return nil, ErrAbandoned
	}
	return it, nil
}

// withdraw ends the wait of a request that has not begun.
func (q *queue) withdraw(it *item, why error) (*item, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !it.IsTaken() {
		return it.granted() // a moment ago
	}
	q.remove(it)
	if errors.Is(why, errTooSlow) && it.class != Idle {
		q.slowAt = time.Now()
	}
	return nil, fmt.Errorf("%w: %w", record.ErrStoreUnavailable, why)
}

// leave notes that the store has answered a request, or given it up. If sampled, its
// duration says something about the store.
func (q *queue) leave(it *item, err error, sampled bool) {
	now := time.Now()
	defer q.tell()
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.running, it)
	took := now.Sub(it.begun)
	switch {
	case sampled && (err == nil || !errors.Is(err, record.ErrStoreUnavailable)):
		q.bound.answered(took, it.alone, now)
	case err != nil && took >= slowAfter:
		q.bound.timedOut()
	}
	q.dispatch(now)
}

// reorder gives a waiting request the class that its ticket has now, or withdraws it.
func (q *queue) reorder(it *item) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !it.IsTaken() {
		return
	}
	if it.ticket.isAbandoned() {
		q.remove(it)
		close(it.ready)
		return
	}
	if class := it.ticket.class(); class != it.class {
		q.remove(it)
		it.class = class
		q.push(it)
	}
}

// dispatch begins as many requests as the bound allows.
func (q *queue) dispatch(now time.Time) {
	for q.pending > 0 && len(q.running) < q.bound.allows(now) {
		it := q.next()
		q.remove(it)
		it.begun, it.alone = now, len(q.running) == 0
		for other := range q.running {
			other.alone = false
		}
		q.running[it] = struct{}{}
		if it.class != Idle && now.Sub(it.asked) >= slowAfter {
			q.slowAt = now
		}
		close(it.ready)
	}
	if q.pending > 0 {
		q.bound.used = true
	}
}

// next returns the most important request. Reads and refreshes take turns: neither may hold
// up the other for ever.
func (q *queue) next() *item {
	for class := range q.waiting {
		if q.waiting[class].Len() == 0 {
			continue
		}
		if Class(class) == Read && q.waiting[Refresh].Len() > 0 {
			if q.turn = !q.turn; q.turn {
				return q.waiting[Refresh].First()
			}
		}
		return q.waiting[class].First()
	}
	return nil
}

func (q *queue) push(it *item) {
	if q.pending == 0 {
		q.since = time.Now()
	}
	q.pending++
	q.waiting[it.class].Push(it)
}

func (q *queue) remove(it *item) {
	q.pending--
	q.waiting[it.class].Remove(it)
}

// busy reports whether a request would have to wait for noticeably long.
func (q *queue) busy() bool {
	now := time.Now()
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.overloaded || q.pending > 0 && now.Sub(q.since) >= busyAfter {
		return true
	}
	for it := range q.running {
		if now.Sub(it.begun) >= hangsAfter {
			return true
		}
	}
	return false
}

// tell reports if the store has become overloaded, or is no longer.
func (q *queue) tell() {
	q.mu.Lock()
	overloaded := !q.slowAt.IsZero() && time.Since(q.slowAt) < calmAfter
	changed := overloaded != q.overloaded
	q.overloaded = overloaded
	q.mu.Unlock()
	if changed {
		q.report(overloaded)
	}
}
