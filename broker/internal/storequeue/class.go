package storequeue

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
)

// A Class is the importance of a request to the store.
type Class int

// The classes, the most important first. Requests without a class are of class Read.
const (
	Settle  Class = iota // saves an answer that may hold the only valid refresh token, or gives a lease back
	Resume               // saves what an earlier request has read
	Read                 // a caller waits for it, and it may be all that the caller needs
	Refresh              // begins a refresh that a caller waits for
	Ahead                // begins a refresh without a waiting caller: the token that expires first comes first
	Idle                 // looks for changes by other processes; the sweep; the destruction of old revisions
	classes
)

// ErrAbandoned means that a request was not begun because its last waiting caller has left.
var ErrAbandoned = errors.New("no caller waits for the store any longer")

// A Ticket is the importance of work whose callers come and go. Its requests are made one
// after the other.
type Ticket struct {
	waited, unwaited Class
	due              time.Time // orders the requests of a class; zero: the time of the request

	waiters atomic.Int32
	keep    atomic.Bool // the work goes on without waiting callers
	left    atomic.Bool // callers have waited and left
	item    atomic.Pointer[item]
}

// NewTicket returns the ticket of a class of work for which callers wait. Without waiting
// callers the class is unwaited.
func NewTicket(waited, unwaited Class, due time.Time) *Ticket {
	return &Ticket{waited: waited, unwaited: unwaited, due: due}
}

// Keep lets the work go on when its last caller has left. Otherwise a request that has
// not begun by then fails with [ErrAbandoned].
func (t *Ticket) Keep() { t.keep.Store(true) }

// Wait notes that a caller waits for the work until it calls leave.
func (t *Ticket) Wait() (leave func()) {
	if t.waiters.Add(1) == 1 {
		t.reorder()
	}
	return func() {
		if t.waiters.Add(-1) == 0 {
			t.left.Store(true)
			t.reorder()
		}
	}
}

// IsAwaited reports whether a caller waits for the work.
func (t *Ticket) IsAwaited() bool { return t.waiters.Load() > 0 }

func (t *Ticket) reorder() {
	if it := t.item.Load(); it != nil {
		it.queue.reorder(it)
	}
}

// isAbandoned reports whether no request of the work need begin.
func (t *Ticket) isAbandoned() bool {
	return t.left.Load() && !t.keep.Load() && !t.IsAwaited()
}

// class returns the class of the work's next request.
func (t *Ticket) class() Class {
	if t.IsAwaited() {
		return t.waited
	}
	return t.unwaited
}

type contextKey struct{}

// With returns a context for requests of that class.
func With(ctx context.Context, class Class) context.Context {
	return context.WithValue(ctx, contextKey{}, class)
}

// AtLeast returns a context for requests of that class, unless those of ctx are more
// important.
func AtLeast(ctx context.Context, class Class) context.Context {
	if known, _ := classOf(ctx); known <= class {
		return ctx
	}
	return With(ctx, class)
}

// WithTicket returns a context for the requests of a ticket's work.
func WithTicket(ctx context.Context, t *Ticket) context.Context {
	return context.WithValue(ctx, contextKey{}, t)
}

// classOf returns the class that ctx says, and its ticket or nil.
func classOf(ctx context.Context) (Class, *Ticket) {
	switch v := ctx.Value(contextKey{}).(type) {
	case Class:
		return v, nil
	case *Ticket:
		return v.class(), v
	default:
		return Read, nil
	}
}
