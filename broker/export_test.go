package broker

// Refreshers returns how many connections the broker keeps something of in memory.
func (b *Broker) Refreshers() int {
	n := 0
	b.connections.refreshers.each(func(*refresher) { n++ })
	return n
}

// Lock takes every lock that a refresh of the source's connection could take, and
// returns what gives them back.
func (s Source) Lock() (unlock func()) {
	b := s.refresher.broker
	s.refresher.mu.Lock()
	b.lifecycle.mu.Lock()
	b.refusals.breakers.mu.Lock()
	b.backlog.mu.Lock()
	return func() {
		b.backlog.mu.Unlock()
		b.refusals.breakers.mu.Unlock()
		b.lifecycle.mu.Unlock()
		s.refresher.mu.Unlock()
	}
}
