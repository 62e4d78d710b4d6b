// Package sharded has a map for values that very many goroutines look up.
package sharded

import (
	"hash/maphash"
	"maps"
	"slices"
	"sync"
)

// A Map holds at most one value for a key. It is divided into parts, so that goroutines
// rarely contend for a lock.
type Map[K comparable, V any] struct {
	seed  maphash.Seed
	name  func(K) string
	parts [64]part[K, V]
}

type part[K comparable, V any] struct {
	mu     sync.RWMutex // no other lock is taken while it is held
	values map[K]*V     // guarded by mu
}

// New returns an empty map. name returns what tells most keys apart.
func New[K comparable, V any](name func(K) string) *Map[K, V] {
	m := &Map[K, V]{seed: maphash.MakeSeed(), name: name}
	for i := range m.parts {
		m.parts[i].values = make(map[K]*V)
	}
	return m
}

func (m *Map[K, V]) part(key *K) *part[K, V] {
	return &m.parts[maphash.String(m.seed, m.name(*key))%uint64(len(m.parts))]
}

// Load returns the value of a key, nil if it has none.
func (m *Map[K, V]) Load(key *K) *V {
	p := m.part(key)
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.values[*key]
}

// LoadOrStore returns the value of a key. If it has none, that becomes v.
func (m *Map[K, V]) LoadOrStore(key *K, v *V) *V {
	p := m.part(key)
	p.mu.Lock()
	defer p.mu.Unlock()
	if known := p.values[*key]; known != nil {
		return known
	}
	p.values[*key] = v
	return v
}

// Remove removes v, unless the key has another value.
func (m *Map[K, V]) Remove(key *K, v *V) {
	p := m.part(key)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.values[*key] == v {
		delete(p.values, *key)
	}
}

// Locker returns the lock of a key, for tests of what a caller may wait for.
func (m *Map[K, V]) Locker(key *K) sync.Locker { return &m.part(key).mu }

// Each calls f for every value, without holding a lock.
func (m *Map[K, V]) Each(f func(*V)) {
	for i := range m.parts {
		p := &m.parts[i]
		p.mu.RLock()
		now := slices.AppendSeq(make([]*V, 0, len(p.values)), maps.Values(p.values))
		p.mu.RUnlock()
		for _, v := range now {
			f(v)
		}
	}
}
