package broker

import (
	"context"
	"hash/maphash"
	"maps"
	"slices"
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
		if !r.memory.evicted {
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
	if r.memory.exists || r.memory.evicted || r.attempts.flight != nil || r.memory.reading != nil || r.attempts.cancelRetry != nil || r.memory.unsaved.Load() || r.memory.snap.Load() != nil {
		return
	}
	r.memory.evicted = true
	r.broker.connections.refreshers.remove(r)
}

// dropIfUnknown is called when something was done with a connection that may not be there: then
// it leaves nothing behind.
func (r *refresher) dropIfUnknown() {
	if r.memory.snap.Load() != nil || r.admissions.own.n.Load() > 0 { // whose number limits look at
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.memory.highest == (watermark{}) {
		r.discard()
	}
}

func (r *refresher) evict(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.attempts.flight != nil || r.memory.reading != nil || r.memory.unsaved.Load() || now.Sub(time.Unix(0, r.memory.usedAt.Load())) <= idleAfter {
		return
	}
	if snap := r.memory.snap.Load(); snap != nil && snap.rec.IsTombstone() {
		if !snap.rec.WasPurged(now) {
			return
		}
		r.memory.exists = false
	}
	r.memory.snap.Store(nil)
	r.discard()
}

// touch notes that the connection is used.
func (r *refresher) touch(now time.Time) {
	if used := r.memory.usedAt.Load(); now.UnixNano()-used > int64(touchEvery) {
		r.memory.usedAt.Store(now.UnixNano())
	}
}

// A refresher is what this process knows of one connection, and does for it.
type refresher struct {
	broker     *Broker
	key        record.Key
	admissions admissions

	mu         sync.Mutex // guards the fields of the groups below, but for the atomic ones; never held across I/O
	memory     memory
	attempts   attempts
	rejections rejections
}

// admissions count the requests in progress.
type admissions struct {
	own         inFlight  // of this connection
	application *inFlight // of all connections of its application
}

// memory is what is known of the record.
type memory struct {
	snap       atomic.Pointer[snapshot] // nil until the record was read
	readFailed atomic.Int64             // when a read last failed, Unix nanoseconds
	unsaved    atomic.Bool              // snap is newer than what the store has taken
	usedAt     atomic.Int64             // when a call last used the connection, Unix nanoseconds, to the minute

	exists  bool     // the store has a record, as far as is known
	evicted bool     // another refresher has taken this one's place, or may
	reading *reading // nil if no read is in progress
	highest watermark
}

// attempts are the refreshes of this process.
type attempts struct {
	idleSince atomic.Int64 // when a refresh of a valid token last found nothing to do, Unix nanoseconds

	flight      *flight            // nil if no refresh is in progress
	unsent      []string           // ids of leases that this process may have written and did not use
	retryAt     time.Time          // when the next attempt is planned for
	cancelRetry context.CancelFunc // nil if none is planned
	outages     int                // flights in a row that the store did not answer
}

// rejections are what 401s of downstream have led to.
type rejections struct {
	forced   atomic.Bool // a refresh was forced, and no call has shown yet that it helped
	reacting atomic.Bool // a reaction is in progress in the background

	refresh forcedRefresh
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

// sawRecord is isRolledBack for a caller that holds mu.
func (r *refresher) sawRecord(rec *record.Record) bool {
	r.memory.exists = true
	if rec.Generation < r.memory.highest.generation && !rec.CreatedAt.After(r.memory.highest.createdAt) {
		return true
	}
	r.memory.highest = watermark{rec.Generation, rec.CreatedAt}
	return false
}

// highestSeen returns the highest generation that this process has seen. A record that
// continues to count from there is never taken for one of a store that was rolled back.
func (r *refresher) highestSeen() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.memory.highest.generation
}

// refresher returns what this process knows of a connection. There is one for a
// connection at any time: two would each let a refresh begin.
func (b *Broker) refresher(key record.Key) *refresher {
	if r := b.connections.refreshers.load(&key); r != nil {
		return r
	}
	return b.connections.refreshers.loadOrStore(&refresher{broker: b, key: key, admissions: admissions{application: b.inFlightOf(key.Application)}})
}

// find returns the refresher of a request's connection, and its connector. Errors:
// [record.ErrConnectorNotFound], [*record.InputError]. Whoever does nothing with it calls leave.
func (b *Broker) find(cfg *Config, key record.Key) (*refresher, *record.Connector, error) {
	r := b.connections.refreshers.load(&key)
	if r == nil || r.memory.snap.Load() == nil { // otherwise a record has this key, so it is valid
		if err := key.Validate(); err != nil {
			return nil, nil, err
		}
	}
	conn, err := cfg.configured(key.Connector)
	if err != nil {
		return nil, nil, err
	}
	if r == nil {
		r = b.refresher(key)
	}
	return r, conn, nil
}

// evictIdle drops from memory what was read of connections that nobody uses. What it
// takes to recognise a store that was set back stays, for as long as there is a record.
func (b *Broker) evictIdle() {
	now := b.clock.Now()
	b.connections.refreshers.each(func(r *refresher) { r.evict(now) })
}

// A table has the refreshers of a broker, one for a connection at any time. It is in
// parts, so that requests hardly ever wait for each other.
type table struct {
	seed  maphash.Seed
	parts [64]tablePart
}

type tablePart struct {
	mu         sync.RWMutex // guards refreshers; nothing else is locked under it
	refreshers map[record.Key]*refresher
}

func newTable() *table {
	t := &table{seed: maphash.MakeSeed()}
	for i := range t.parts {
		t.parts[i].refreshers = make(map[record.Key]*refresher)
	}
	return t
}

func (t *table) part(key *record.Key) *tablePart {
	return &t.parts[maphash.String(t.seed, key.Consumer)%uint64(len(t.parts))]
}

// load returns the refresher of a connection, nil if there is none.
func (t *table) load(key *record.Key) *refresher {
	part := t.part(key)
	part.mu.RLock()
	defer part.mu.RUnlock()
	return part.refreshers[*key]
}

// loadOrStore returns the refresher of r's connection: r, if there is none.
func (t *table) loadOrStore(r *refresher) *refresher {
	part := t.part(&r.key)
	part.mu.Lock()
	defer part.mu.Unlock()
	if known := part.refreshers[r.key]; known != nil {
		return known
	}
	part.refreshers[r.key] = r
	return r
}

// remove takes r out.
func (t *table) remove(r *refresher) {
	part := t.part(&r.key)
	part.mu.Lock()
	defer part.mu.Unlock()
	if part.refreshers[r.key] == r {
		delete(part.refreshers, r.key)
	}
}

// each calls f for every refresher that is there now. f may use the table.
func (t *table) each(f func(*refresher)) {
	for i := range t.parts {
		part := &t.parts[i]
		part.mu.RLock()
		now := slices.AppendSeq(make([]*refresher, 0, len(part.refreshers)), maps.Values(part.refreshers))
		part.mu.RUnlock()
		for _, r := range now {
			f(r)
		}
	}
}
