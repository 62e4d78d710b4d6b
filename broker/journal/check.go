package journal

import (
	"context"
	"fmt"
	"sync"
)

// Check implements [record.Journal]. It writes and syncs a probe of the size of a large
// entry, and checks that the key in use is the one on disk, which the next process will
// read. Checks that wait for the disk at the same time share the next probe. Errors: [ErrKey],
// [ErrClosed], or an error of the file system.
func (j *Journal) Check(ctx context.Context) error {
	for {
		c, isFirst := j.checks.join()
		if isFirst {
			return j.run(ctx, c)
		}
		select {
		case <-c.done:
		case <-ctx.Done():
			return fmt.Errorf("waiting for the journal in %s: %w", j.dir, ctx.Err())
		}
		if !c.abandoned {
			return c.err
		}
	}
}

// checks are the checks that have not begun yet.
type checks struct {
	mu   sync.Mutex
	next *probing // guarded by mu; nil: none waits
}

// A probing is a probe for all that have joined before it begins.
type probing struct {
	done chan struct{} // closed when the fields below are set

	err       error
	abandoned bool // the caller that was to write it has given up
}

// join returns the next check. The caller that is the first to join runs it.
func (s *checks) join() (_ *probing, isFirst bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next != nil {
		return s.next, false
	}
	s.next = &probing{done: make(chan struct{})}
	return s.next, true
}

// begin makes those who come from now on wait for another check.
func (s *checks) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next = nil
}

// run runs a check, for its first caller.
func (j *Journal) run(ctx context.Context, c *probing) error {
	defer close(c.done)
	release, err := j.acquire(ctx)
	j.checks.begin()
	if err != nil {
		c.err, c.abandoned = err, ctx.Err() != nil
		return err
	}
	defer release()
	if c.err = j.loadKey(); c.err == nil {
		c.err = j.write((*file).probe)
	}
	return c.err
}
