package broker

// InMemory returns the number of connections that the broker keeps in memory.
func (b *Broker) InMemory() int { return b.engine.InMemory() }
