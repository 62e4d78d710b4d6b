package storeproxy

import (
	"context"
	"sync"
	"time"
)

// A throttle starts jobs in the order of their arrival, at most a number of them each second. A
// job that was added is started, even if its result is no longer wanted: a server that is
// overloaded works that way.
type throttle struct {
	added   chan struct{} // has a value if the queue may have got its first job
	changed chan struct{} // has a value if the rate may have changed

	mu      sync.Mutex // guards the fields below
	rate    float64    // jobs a second; 0: no limit
	queue   []queued
	longest int // the longest queue since the last call of LongestQueue
}

type queued struct {
	job     func()
	arrived time.Time
}

func newThrottle() *throttle {
	return &throttle{added: make(chan struct{}, 1), changed: make(chan struct{}, 1)}
}

// SetRate sets how many jobs are started each second, 0 for any number. It holds for jobs in the
// queue too.
func (t *throttle) SetRate(perSecond float64) {
	t.mu.Lock()
	t.rate = perSecond
	t.mu.Unlock()
	wake(t.changed)
}

// add appends a job to the queue. The job must not block.
func (t *throttle) add(job func()) {
	t.mu.Lock()
	t.queue = append(t.queue, queued{job, time.Now()})
	t.longest = max(t.longest, len(t.queue))
	t.mu.Unlock()
	wake(t.added)
}

func wake(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// LongestQueue returns how long the queue was at most since the last call.
func (t *throttle) LongestQueue() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	longest := t.longest
	t.longest = len(t.queue)
	return longest
}

// run starts jobs until ctx is done.
func (t *throttle) run(ctx context.Context) {
	var last time.Time // when the last job was due
	for {
		job, due := t.next(last)
		switch {
		case job == nil && due.IsZero(): // the queue is empty
			select {
			case <-t.added:
			case <-ctx.Done():
				return
			}
		case job == nil:
			select {
			case <-time.After(time.Until(due)):
			case <-t.changed:
			case <-ctx.Done():
				return
			}
		default:
			job()
			last = due
		}
	}
}

// next takes the first job from the queue if it is due, given when the last one was due. Else it
// returns when the first one is due, zero if there is none.
func (t *throttle) next(last time.Time) (job func(), due time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.queue) == 0 {
		return nil, time.Time{}
	}
	first := t.queue[0]
	due = time.Now()
	if t.rate > 0 {
		// Timers are late, which must not lower the rate: what counts is when the last job was due.
		// Time in which the queue was empty is lost.
		interval := time.Duration(float64(time.Second) / t.rate)
		if due = last.Add(interval); due.Before(first.arrived) {
			due = first.arrived
		}
		if due.After(time.Now()) {
			return nil, due
		}
	}
	t.queue[0] = queued{}
	t.queue = t.queue[1:]
	return first.job, due
}
