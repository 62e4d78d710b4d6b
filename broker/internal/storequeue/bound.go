package storequeue

import "time"

const (
	firstLimit = 16
	maxLimit   = 64 // requests at a time to the fastest store

	// headroom is how many requests wait at a store that is saturated, so that it is never
	// idle between two requests.
	headroom = 4

	// minBase is the lowest base. A queue that costs less need not be noticed.
	minBase = time.Millisecond

	noise      = 1.5         // a request that takes so many times the base did not wait at the store
	shrinkTime = time.Second // of the longest window
	probeEvery = 30 * time.Second
	probeTime  = time.Second // how long a probe may hold up other requests
)

// A bound is how many requests may be at the store at a time. It adapts as TCP Vegas does
// (Brakmo and Peterson, 1995): from the lowest latency that the store has shown, the base,
// and that of the fastest request of late it estimates how many requests wait at the store,
// and keeps that number at the headroom. An average would mistake slow requests for a queue;
// the fastest of many requests is only slow if all of them had to wait.
type bound struct {
	limit    int
	adaptive bool
	base     time.Duration // 0: not known yet

	// The window that the next decision is based on.
	since   time.Time
	samples int
	fastest time.Duration
	used    bool // a request had to wait for the bound

	probing bool // one request at a time, to measure the base anew
	probed  time.Time
}

func newBound(adaptive bool) bound {
	b := bound{limit: maxLimit, adaptive: adaptive}
	if adaptive {
		b.limit = firstLimit
	}
	return b
}

// allows returns how many requests may be at the store now.
func (b *bound) allows(now time.Time) int {
	if b.probing && now.Sub(b.probed) > probeTime {
		b.probing = false // a request hangs
	}
	if b.probing {
		return 1
	}
	return b.limit
}

// answered notes that the store has answered a request. alone says that the store had no
// other one from this process meanwhile.
func (b *bound) answered(took time.Duration, alone bool, now time.Time) {
	if !b.adaptive {
		return
	}
	took = max(took, minBase)
	if b.base == 0 || took < b.base || b.probing && alone {
		b.base = took
	}
	if alone {
		b.probing = false
	}
	if b.samples == 0 {
		b.since, b.fastest = now, took
	}
	b.samples++
	b.fastest = min(b.fastest, took)
	if b.samples >= max(b.limit, 2) || b.samples >= 2 && now.Sub(b.since) >= shrinkTime {
		b.adapt(now)
	}
}

// adapt sets the limit at the end of a window.
func (b *bound) adapt(now time.Time) {
	next := b.limit + headroom
	queued := float64(b.fastest) > noise*float64(b.base)
	if queued {
		next = int(float64(b.limit)*float64(b.base)/float64(b.fastest)) + headroom
	}
	if next < b.limit || b.used {
		b.limit = min(next, maxLimit)
	}
	if queued && b.used && now.Sub(b.probed) > probeEvery {
		// The base may have been that of another node, or of a quieter time.
		b.probing, b.probed = true, now
	}
	b.samples, b.used = 0, false
}

// timedOut notes that the store did not answer a request in time. It may still work on it.
func (b *bound) timedOut() {
	if b.adaptive {
		b.limit = max(b.limit/2, 1)
		b.samples, b.used = 0, false
	}
}
