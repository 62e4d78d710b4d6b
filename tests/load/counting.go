package main

import (
	"sync"
	"time"
)

// A perSecond counts what happens in each second.
type perSecond struct {
	mu     sync.Mutex // guards the fields below
	start  time.Time
	counts []int
}

// add counts one event now. The first one starts the first second.
func (p *perSecond) add(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.start.IsZero() {
		p.start = now
	}
	second := max(int(now.Sub(p.start)/time.Second), 0)
	for len(p.counts) <= second {
		p.counts = append(p.counts, 0)
	}
	p.counts[second]++
}

// peak returns the count of the busiest second.
func (p *perSecond) peak() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	highest := 0
	for _, count := range p.counts {
		highest = max(highest, count)
	}
	return highest
}

// reset forgets all events.
func (p *perSecond) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.start, p.counts = time.Time{}, nil
}

// until returns how many seconds it took until a share of all events had happened, and their
// number at the end of the last of these seconds.
func (p *perSecond) until(share float64) (events, seconds int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	total := 0
	for _, count := range p.counts {
		total += count
	}
	for float64(events) < share*float64(total) && seconds < len(p.counts) {
		events += p.counts[seconds]
		seconds++
	}
	return events, seconds
}

// A level is how much of something there is at a time, and the most there was.
type level struct {
	mu      sync.Mutex // guards the fields below
	current int
	highest int
}

func (l *level) enter() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.current++
	l.highest = max(l.highest, l.current)
}

func (l *level) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.current--
}

// peak returns the most there was since the last call.
func (l *level) peak() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	highest := l.highest
	l.highest = l.current
	return highest
}
