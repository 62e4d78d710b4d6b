package broker

// Refreshers returns how many connections the broker keeps something of in memory.
func (b *Broker) Refreshers() int {
	n := 0
	b.refreshers.Range(func(any, any) bool {
		n++
		return true
	})
	return n
}
