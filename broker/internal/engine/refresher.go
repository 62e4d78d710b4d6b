package engine

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/internal/clock"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// When the record of an unused connection is dropped from memory.
const (
	idleAfter     = time.Hour   // after the last use
	useResolution = time.Minute // of memory.usedAt
)

// A Refresher is the state that this process keeps for one connection.
type Refresher struct {
	engine     *Engine
	Key        record.Key
	admissions admissions

	mu         sync.Mutex // never held across I/O
	memory     memory
	attempts   attempts
	rejections rejections
}

// lock locks the current refresher of the connection and returns it. Take the lock through
// this before changing state: r may have been evicted and replaced since the caller got it.
func (r *Refresher) lock() *Refresher {
	for {
		r.mu.Lock()
		if !r.memory.evicted {
			return r
		}
		r.mu.Unlock()
		r = r.engine.Refresher(r.Key)
	}
}

// discard removes the refresher from the broker unless it holds state that matters. Callers
// can make up any number of consumers, which must not fill the memory. The caller holds mu.
func (r *Refresher) discard() {
	if r.memory.exists || r.memory.evicted || r.attempts.flight != nil || r.memory.reading != nil || r.attempts.retry.IsSet() || r.memory.unsaved.Load() || r.memory.snap.Load() != nil {
		return
	}
	r.memory.evicted = true
	r.engine.connections.refreshers.Remove(&r.Key, r)
}

// DropIfUnknown discards the refresher if the connection turned out not to exist. Call it
// when done with a connection that may not exist.
func (r *Refresher) DropIfUnknown() {
	if r.memory.snap.Load() != nil || r.admissions.own.n.Load() > 0 { // the count is needed for the limit
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.memory.highest == (watermark{}) {
		r.discard()
	}
}

// evict drops the record from memory, and the refresher if possible, unless the connection
// is in use.
func (r *Refresher) evict(now clock.Moment) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f := r.attempts.flight; f != nil && f.begun || r.memory.reading != nil || r.memory.unsaved.Load() || now.Mono.IsWithin(idleAfter, r.memory.usedAt.Load()) {
		return
	}
	if snap := r.memory.snap.Load(); snap != nil && snap.Record.IsTombstone() {
		if !snap.Record.WasPurged(now.Wall) {
			return
		}
		r.memory.exists = false
	}
	r.memory.snap.Store(nil)
	r.discard()
}

// noteUse records that the connection is in use.
func (r *Refresher) noteUse(now clock.Instant) {
	if !now.IsWithin(useResolution, r.memory.usedAt.Load()) {
		r.memory.usedAt.Store(int64(now))
	}
}

// memory is what a refresher knows about the record. mu is the refresher's.
type memory struct {
	snap       atomic.Pointer[Snapshot] // nil until the record has been read
	loaded     atomic.Int64             // the instant when the record was last loaded into snap
	readFailed atomic.Int64             // the instant when a read last failed
	unsaved    atomic.Bool              // snap is newer than the record in the store
	usedAt     atomic.Int64             // the instant when the connection was last used, to within useResolution

	exists  bool      // guarded by mu; the store has a record, as far as known
	evicted bool      // guarded by mu; another refresher may have taken this one's place
	reading *reading  // guarded by mu; nil if no read is in progress
	highest watermark // guarded by mu
	stale   uint64    // guarded by mu; the generation that a rolled back store had, once reported; 0: none
}

// expiry returns when the token in memory expires, or the zero time.
func (m *memory) expiry() time.Time {
	if snap := m.snap.Load(); snap != nil && snap.Record.Credentials != nil {
		return snap.Record.Credentials.Expiry
	}
	return time.Time{}
}

// attempts is the state of a refresher's refreshes. mu is the refresher's.
type attempts struct {
	idleSince atomic.Int64 // the instant when a refresh of a valid token last found nothing to do

	flight  *flight             // guarded by mu; nil if no refresh is in progress or waits
	unsent  []string            // guarded by mu; ids of leases that this process may have written but has not used
	retry   clock.Alarm         // guarded by mu; the next attempt
	wait    clock.Watch[waitID] // guarded by mu
	outages int                 // guarded by mu; flights in a row that failed because the store was unavailable
}

// rejections is what a refresher knows about 401s of downstream. mu is the refresher's.
type rejections struct {
	forced   atomic.Bool // a refresh was forced, and no call has shown yet that it helped
	reacting atomic.Bool // a reaction is in progress in the background

	refresh forcedRefresh // guarded by mu
}

// holds reports whether downstream has rejected the token of that generation. The caller
// holds the refresher's mu.
func (j *rejections) holds(generation uint64) bool {
	return generation != 0 && j.refresh.last == generation
}

// A watermark is the highest generation that was seen of a record, and when that record was
// created: a record that was created later is a new one, whose generations start again.
type watermark struct {
	generation uint64
	createdAt  time.Time
}

// isRolledBack reports whether rec is older than the newest version that this process has
// seen, as after a restore of a backup. Otherwise it notes rec as seen.
func (r *Refresher) isRolledBack(rec *record.Record) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sawRecord(rec)
}

// sawRecord is isRolledBack for a caller that holds mu.
func (r *Refresher) sawRecord(rec *record.Record) bool {
	r.memory.exists = true
	if rec.Generation < r.memory.highest.generation && !rec.CreatedAt.After(r.memory.highest.createdAt) {
		return true
	}
	r.memory.highest = watermark{rec.Generation, rec.CreatedAt}
	return false
}

// HighestSeen returns the highest generation that this process has seen. New credentials
// count on from there, so that they are not mistaken for those of a rolled back store.
func (r *Refresher) HighestSeen() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.memory.highest.generation
}

// Refresher returns the Refresher of a connection. There is only one for a connection at
// any time: two would each begin a refresh.
func (e *Engine) Refresher(key record.Key) *Refresher {
	if r := e.connections.refreshers.Load(&key); r != nil {
		return r
	}
	return e.connections.refreshers.LoadOrStore(&key, &Refresher{engine: e, Key: key, admissions: admissions{application: e.inFlightOf(key.Application)}})
}

// Find returns the refresher of a request's connection, and the connector. A caller that
// admits no request must call dropIfUnknown. Errors: [record.ErrConnectorNotFound],
// [*record.InputError].
func (e *Engine) Find(cfg *record.Config, key record.Key) (*Refresher, *record.Connector, error) {
	r := e.connections.refreshers.Load(&key)
	if r == nil || r.memory.snap.Load() == nil { // otherwise a record has this key, so it is valid
		if err := key.Validate(); err != nil {
			return nil, nil, err
		}
	}
	conn, err := cfg.Configured(key.Connector)
	if err != nil {
		return nil, nil, err
	}
	if r == nil {
		r = e.Refresher(key)
	}
	return r, conn, nil
}

// InMemory returns the number of connections that this process keeps in memory.
func (e *Engine) InMemory() int {
	n := 0
	e.connections.refreshers.Each(func(*Refresher) { n++ })
	return n
}

// evictIdle drops the records of unused connections from memory. The watermarks of existing
// records stay, to recognise a store that was rolled back.
func (e *Engine) evictIdle() {
	now := e.now()
	e.connections.refreshers.Each(func(r *Refresher) { r.evict(now) })
}
