package brokertest

import (
	"bytes"
	"sync"
)

// A Log takes what goroutines and processes print, and can be read meanwhile. Its zero
// value is empty and ready.
type Log struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

// Write implements [io.Writer]. It never fails.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// String returns all that was written.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
