package broker

import (
	"context"
	"sync"
)

// A lifecycle runs the goroutines of a broker, and ends them.
type lifecycle struct {
	// ctx ends when Close begins: nothing new is started then, and nothing waits for what
	// was only planned. A request that was sent is finished all the same.
	ctx context.Context
	end context.CancelFunc

	mu     sync.Mutex // guards closed
	closed bool       // begin does nothing
	work   sync.WaitGroup
}

// begin runs work in a goroutine that Close waits for. It reports false, and does
// nothing, if the broker is closing.
func (l *lifecycle) begin(work func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.work.Go(work)
	return true
}

// close ends ctx and lets no more work begin. The channel is closed when all work has
// ended.
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
