package broker

// Refreshers returns the number of connections that the broker keeps in memory.
func (b *Broker) Refreshers() int { return 0 }

// Lock is a stub.
func (s Source) Lock() (unlock func()) { return func() {} }
