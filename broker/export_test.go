package broker

import (
	"slices"
	"sync"
)

// Refreshers returns the number of connections that the broker keeps in memory.
func (b *Broker) Refreshers() int {
	n := 0
	b.connections.refreshers.each(func(*refresher) { n++ })
	return n
}

// Lock takes every mutex that a refresh of the source's connection can take. The returned
// function releases them.
func (s Source) Lock() (unlock func()) {
	b := s.refresher.broker
	locks := []sync.Locker{
		&s.refresher.mu,
		&b.connections.refreshers.part(&s.refresher.key).mu,
		&b.lifecycle.mu,
		&b.refusals.breakers.mu,
		&b.refusals.suspicions.mu,
		&b.refusals.announcements.mu,
		&b.backlog.mu,
	}
	for _, l := range locks {
		l.Lock()
	}
	return func() {
		for _, l := range slices.Backward(locks) {
			l.Unlock()
		}
	}
}
