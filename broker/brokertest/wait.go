package brokertest

import (
	"testing"
	"time"
)

// pollInterval is how long Retry waits between two tries.
const pollInterval = 20 * time.Millisecond

// Eventually waits until try returns nil, and fails the test if that takes longer than
// timeout. what names what is waited for.
func Eventually(t testing.TB, timeout time.Duration, what string, try func() error) {
	t.Helper()
	if err := Retry(timeout, try); err != nil {
		t.Fatalf("%s: not within %v: %v", what, timeout, err)
	}
}

// Retry calls try until it returns nil, or returns its last error after timeout. Unlike
// [Eventually] it can be called by any goroutine.
func Retry(timeout time.Duration, try func() error) error {
	for deadline := time.Now().Add(timeout); ; time.Sleep(pollInterval) {
		if err := try(); err == nil || time.Now().After(deadline) {
			return err
		}
	}
}
