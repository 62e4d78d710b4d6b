package broker

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// What is kept in memory of connections that nobody uses.
const (
	idleAfter  = time.Hour   // then what was read of a connection is dropped
	touchEvery = time.Minute // how exactly the use of a connection is noted
)

// lock locks and returns the refresher that has this one's place now. Whoever is about
// to begin something, or to note something, goes by that: a discarded one may be in the
// hands of somebody who got it before.
func (r *refresher) lock() *refresher {
	for {
		r.mu.Lock()
		if !r.gone {
			return r
		}
		r.mu.Unlock()
		r = r.broker.refresher(r.key)
	}
}

// discard takes the refresher out of the broker unless there is something to know:
// consumers are whatever callers say, and there is no end to what they can invent. The
// caller holds mu.
func (r *refresher) discard() {
	if r.known || r.gone || r.flight != nil || r.reading != nil || r.cancelRetry != nil || r.unsaved.Load() || r.snap.Load() != nil {
		return
	}
	r.gone = true
	r.broker.refreshers.remove(r)
}

// dropIfUnknown is called when something was done with a connection that may not be there: then
// it leaves nothing behind.
func (r *refresher) dropIfUnknown() {
	if r.snap.Load() != nil || r.inFlight.n.Load() > 0 { // whose number limits look at
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.highest == (watermark{}) {
		r.discard()
	}
}

func (r *refresher) evict(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.flight != nil || r.reading != nil || r.unsaved.Load() || now.Sub(time.Unix(0, r.usedAt.Load())) <= idleAfter {
		return
	}
	if snap := r.snap.Load(); snap != nil && snap.rec.IsTombstone() {
		if !snap.rec.WasPurged(now) {
			return
		}
		r.known = false
	}
	r.snap.Store(nil)
	r.discard()
}

// touch notes that the connection is used.
func (r *refresher) touch(now time.Time) {
	if used := r.usedAt.Load(); now.UnixNano()-used > int64(touchEvery) {
		r.usedAt.Store(now.UnixNano())
	}
}

// A refresher is what this process knows of one connection and does for it.
type refresher struct {
	broker *Broker
	key    record.Key

	inFlight    inFlight  // requests of this connection
	application *inFlight // those of all connections of its application

	snap       atomic.Pointer[snapshot] // nil until the record was read
	readFailed atomic.Int64             // when a read last failed, Unix nanoseconds
	unsaved    atomic.Bool              // snap is newer than what the store has taken
	usedAt     atomic.Int64             // when a call used the connection, Unix nanoseconds, about
	idleSince  atomic.Int64             // when a refresh of the valid token has found nothing to do, Unix nanoseconds
	forced     atomic.Bool              // a 401 has led to a refresh, and nothing yet says that it helped
	reacting   atomic.Bool              // to a 401, in the background

	mu      sync.Mutex // guards the fields below; never held across I/O
	known   bool       // there is a record, as far as is known
	gone    bool       // another refresher has its place in the broker, or may get it
	reading *reading   // nil if nobody reads
	flight  *flight    // nil if no refresh is under way
	unsent  []string   // ids of leases that this process may have written and did not use

	retryAt     time.Time          // when the next attempt is planned for
	cancelRetry context.CancelFunc // nil if none is planned
	outages     int                // flights in a row that the store did not answer

	forcing forcedRefresh
	highest watermark
}

// A watermark is the highest generation of a record that was seen, and since when
// the record has been there: one that is younger is another.
type watermark struct {
	generation uint64
	createdAt  time.Time
}

// isRolledBack reports whether rec is older than what this process has seen of it, as
// when a backup of the store was restored; and otherwise notes it as seen.
func (r *refresher) isRolledBack(rec *record.Record) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sawRecord(rec)
}

// sawRecord is isSetBack for a caller that holds mu.
func (r *refresher) sawRecord(rec *record.Record) bool {
	r.known = true
	if rec.Generation < r.highest.generation && !rec.CreatedAt.After(r.highest.createdAt) {
		return true
	}
	r.highest = watermark{rec.Generation, rec.CreatedAt}
	return false
}

// highestSeen returns the highest generation that this process has highestSeen. What goes on counting
// from there is never taken for a store that was set back.
func (r *refresher) highestSeen() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.highest.generation
}
