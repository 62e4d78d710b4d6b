package exchange

import (
	"context"
	"sync"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker"
)

// How often, and for how long, an upgraded connection asks whether its connection still exists.
const (
	tunnelInterval = time.Second
	tunnelPatience = 5 * time.Second
)

// GoingAway and PolicyViolation are close frames of a WebSocket server with status 1001 and
// 1008 (RFC 6455 sections 5.5.1 and 7.4.1).
var (
	GoingAway       = []byte{0x88, 0x02, 1001 >> 8, 1001 & 0xff}
	PolicyViolation = []byte{0x88, 0x02, 1008 >> 8, 1008 & 0xff}
)

// EndWithConnection calls end once, when calls of the admission's connection have become
// impossible: it was deleted or disabled, or must be authorised again. Call stop when the
// tunnel has ended by itself; end may still be running then.
func EndWithConnection(admission *broker.Admission, end func()) (stop func()) {
	w := &tunnelWatch{}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(tunnelInterval, func() {
		ctx, cancel := context.WithTimeout(context.Background(), tunnelPatience)
		defer cancel()
		if admission.Ended(ctx) != nil {
			end()
			return
		}
		w.again()
	})
	return w.stop
}

// A tunnelWatch runs a timer until it is stopped.
type tunnelWatch struct {
	mu      sync.Mutex
	timer   *time.Timer // guarded by mu
	stopped bool        // guarded by mu
}

func (w *tunnelWatch) again() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.stopped {
		w.timer.Reset(tunnelInterval)
	}
}

func (w *tunnelWatch) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopped = true
	w.timer.Stop()
}
