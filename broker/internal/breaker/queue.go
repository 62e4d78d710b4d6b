package breaker

import (
	"slices"

	"github.com/tokenbroker/caddy-token-broker/broker/internal/priority"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// A queue has the connections that wait for a turn. To find the one that goes next must not cost
// more with each that waits: every call of a connection that is held back asks for it.
type queue struct {
	byKey  map[record.Key]*waiter
	order  priority.Queue[*waiter]
	urgent int // how many waiters are
}

// len returns how many connections wait.
func (q *queue) len() int { return q.order.Len() }

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
	q.order.Push(w)
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
	q.order.Remove(w)
	if w.urgent {
		q.urgent--
	}
}

// blame sets the refusals of an application.
func (q *queue) blame(application string, refusals int) {
	for w := range q.order.All() {
		if w.key.Application == application {
			w.blame = refusals
		}
	}
	q.order.Reorder()
}

// first returns the first waiter, nil if there is none. While others wait that is not the one
// to pass over.
func (q *queue) first(passOver func(*waiter) bool) *waiter {
	switch n := q.order.Len(); {
	case n == 0:
		return nil
	case n == 1 || !passOver(q.order.First()):
		return q.order.First()
	default:
		return q.order.Second()
	}
}

// keys returns the connections that wait, the first one first.
func (q *queue) keys() []record.Key {
	sorted := slices.SortedFunc(q.order.All(), (*waiter).compare)
	keys := make([]record.Key, len(sorted))
	for i, w := range sorted {
		keys[i] = w.key
	}
	return keys
}
