package boltstore

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// The limits of a group.
const (
	// maxGroup keeps the bucket with the stamp of a group in the root page: bbolt moves a bucket of more than a
	// quarter of a page, of 4 KiB or more, to a page of its own.
	maxGroup = 48

	// maxGroupBytes bounds the records of a group, unless it is only one.
	maxGroupBytes = 1 << 20
)

// A request is a change that waits for its transaction: a save, or a deletion if plaintext is nil.
type request struct {
	storeKey  []byte
	plaintext []byte
	expected  record.Revision // save only: what must be stored

	// The result. It is set before done is closed.
	saved record.Revision
	err   error
	done  chan struct{}
}

// A queue collects the changes that arrive while a transaction is written. The next transaction writes them as
// one group, with one sync. A change that finds no transaction in progress is written at once.
type queue struct {
	commit func(group []*request) // sets all results

	mu      sync.Mutex
	waiting []*request // guarded by mu
	writing bool       // run is in progress; guarded by mu
	closed  bool       // guarded by mu
	writer  sync.WaitGroup
}

// do waits for the result of a request. If ctx ends before the request's transaction begins, the request is
// withdrawn.
func (q *queue) do(ctx context.Context, r *request) error {
	r.done = make(chan struct{})
	if err := q.add(r); err != nil {
		return err
	}
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
	}
	if q.withdraw(r) {
		return fmt.Errorf("nothing was changed: %w", ctx.Err())
	}
	<-r.done
	return r.err
}

func (q *queue) add(r *request) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return os.ErrClosed
	}
	q.waiting = append(q.waiting, r)
	if !q.writing {
		q.writing = true
		q.writer.Go(q.run)
	}
	return nil
}

// withdraw reports whether the request was still waiting.
func (q *queue) withdraw(r *request) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	i := slices.Index(q.waiting, r)
	if i < 0 {
		return false
	}
	q.waiting = slices.Delete(q.waiting, i, i+1)
	return true
}

// run writes groups until no request waits.
func (q *queue) run() {
	for group := q.next(); len(group) > 0; group = q.next() {
		q.commit(group)
		for _, r := range group {
			close(r.done)
		}
		// Callers that have their result go first: what they change next joins the next group.
		runtime.Gosched()
	}
}

// next takes the next group. An empty one ends run.
func (q *queue) next() []*request {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := groupLen(q.waiting)
	group := slices.Clone(q.waiting[:n])
	q.waiting = slices.Delete(q.waiting, 0, n)
	q.writing = n > 0
	return group
}

// groupLen returns how many of the requests form the next group. A deletion ends it: bbolt merges pages
// after one, and [boltfile.Tree.GetWithSiblings] knows which these are for a single deletion only.
func groupLen(waiting []*request) int {
	size := 0
	for i, r := range waiting {
		size += len(r.plaintext)
		switch {
		case i > 0 && size > maxGroupBytes:
			return i
		case r.plaintext == nil, i+1 == maxGroup:
			return i + 1
		}
	}
	return len(waiting)
}

// close waits for the requests that were accepted. Further ones fail.
func (q *queue) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.writer.Wait()
}
