package broker

import (
	"hash/maphash"
	"maps"
	"slices"
	"sync"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

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
