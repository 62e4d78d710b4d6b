package brokertest

import (
	"bytes"
	"sync"
)

// A Log collects the output of goroutines and processes. It is safe for concurrent use. The
// zero value is an empty log, ready to use.
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

// String returns everything written so far.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
