package broker

import (
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// What is kept in memory of connections that nobody uses.
const (
	idleAfter  = time.Hour   // then what was read of a connection is dropped
	touchEvery = time.Minute // how exactly the use of a connection is noted
)

// refresher returns what this process knows of a connection. There is one for a
// connection at any time: two would each let a refresh begin.
func (b *Broker) refresher(key record.Key) *refresher {
	if r := b.refreshers.load(&key); r != nil {
		return r
	}
	return b.refreshers.loadOrStore(&refresher{broker: b, key: key, application: b.inFlightOf(key.Application)})
}

// find returns the refresher of a request's connection, and its connector. Errors:
// [record.ErrConnectorNotFound], [*record.InputError]. Whoever does nothing with it calls leave.
func (b *Broker) find(cfg *Config, key record.Key) (*refresher, *record.Connector, error) {
	r := b.refreshers.load(&key)
	if r == nil || r.snap.Load() == nil { // otherwise a record has this key, so it is valid
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

// leave is called when something was done with a connection that may not be there: then
// it leaves nothing behind.
func (r *refresher) leave() {
	if r.snap.Load() != nil || r.inFlight.n.Load() > 0 { // whose number limits look at
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.highest == (watermark{}) {
		r.discard()
	}
}

// evictIdle drops from memory what was read of connections that nobody uses. What it
// takes to recognise a store that was set back stays, for as long as there is a record.
func (b *Broker) evictIdle() {
	now := b.clock.Now()
	b.refreshers.each(func(r *refresher) { r.evict(now) })
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
