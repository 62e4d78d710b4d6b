package brokertest_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
)

func TestRetryTriesUntilItSucceeds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		if err := brokertest.Retry(time.Minute, func() error {
			if tries++; tries < 3 {
				return errors.New("not yet")
			}
			return nil
		}); err != nil || tries != 3 {
			t.Errorf("got %v after %d tries, want success at the third", err, tries)
		}
	})
}

func TestRetryReturnsTheLastError(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		var last error
		err := brokertest.Retry(time.Minute, func() error {
			last = errors.New("never")
			return last
		})
		if waited := time.Since(begun); err == nil || !errors.Is(err, last) || waited < time.Minute || waited > 2*time.Minute {
			t.Errorf("got %v after %v, want the last error after a minute", err, waited)
		}
	})
}
