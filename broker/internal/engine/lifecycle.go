package engine

import (
	"context"
	"sync"
)

// A lifecycle owns the goroutines of a broker.
type lifecycle struct {
	// ctx ends when Close begins. No work begins after that and planned work is abandoned,
	// but a token request that was sent is completed.
	ctx context.Context
	end context.CancelFunc

	mu     sync.Mutex
	closed bool           // guarded by mu; begin refuses work
	work   sync.WaitGroup // Add is guarded by mu
}

// begin runs work in a goroutine that Close waits for. If the broker is closing, it
// reports false and does nothing.
func (l *lifecycle) begin(work func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.work.Go(work)
	return true
}

// close ends ctx and lets no more work begin. The returned channel is closed when all work
// has ended.
func (l *lifecycle) close() <-chan struct{} {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.end()
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.work.Wait()
	}()
	return done
}
