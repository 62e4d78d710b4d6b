package brokertest

import (
	"testing"
	"time"
)

// pollInterval is the time between two tries of Retry.
const pollInterval = 20 * time.Millisecond

// Eventually calls try until it returns nil, and fails the test if that takes longer than
// timeout. what names the expected state in the failure.
func Eventually(t testing.TB, timeout time.Duration, what string, try func() error) {
	t.Helper()
	if err := Retry(timeout, try); err != nil {
		t.Fatalf("%s: not after %v: %v", what, timeout, err)
	}
}

// Retry calls try until it returns nil, and returns its last error after timeout. Unlike
// [Eventually], it can be called from any goroutine.
func Retry(timeout time.Duration, try func() error) error {
	for deadline := time.Now().Add(timeout); ; time.Sleep(pollInterval) {
		if err := try(); err == nil || time.Now().After(deadline) {
			return err
		}
	}
}
