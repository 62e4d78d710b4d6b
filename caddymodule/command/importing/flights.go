package importing

import (
	"context"
	"sync"
)

// flights are the connections of the batches in progress.
type flights struct {
	mu     sync.Mutex
	landed *sync.Cond
	keys   map[uint64]struct{} // guarded by mu
}

func (f *flights) init() {
	f.landed = sync.NewCond(&f.mu)
	f.keys = make(map[uint64]struct{})
}

// take waits until no batch in progress has a connection of b, and adds those of b. It reports
// false if ctx has ended.
func (f *flights) take(ctx context.Context, b *batch) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.shares(b) {
		if ctx.Err() != nil {
			return false
		}
		f.landed.Wait()
	}
	for key := range b.keys {
		f.keys[key] = struct{}{}
	}
	return true
}

// shares reports whether a batch in progress has a connection of b. Call it with mu locked.
func (f *flights) shares(b *batch) bool {
	for key := range b.keys {
		if _, ok := f.keys[key]; ok {
			return true
		}
	}
	return false
}

// land removes the connections of a batch that is done.
func (f *flights) land(b *batch) {
	f.mu.Lock()
	for key := range b.keys {
		delete(f.keys, key)
	}
	f.mu.Unlock()
	f.landed.Broadcast()
}

// wake lets take notice that its context has ended.
func (f *flights) wake() {
	f.mu.Lock()   // so that it cannot fall between take's check and its wait
	f.mu.Unlock() //nolint:staticcheck // see above
	f.landed.Broadcast()
}
