package engine

import (
	"fmt"
	"sync/atomic"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// admissions are the numbers of requests in progress.
type admissions struct {
	own         inFlight  // of this connection
	application *inFlight // of all connections of its application
}

// inFlight counts requests in progress. It outlives configurations, as requests do.
type inFlight struct{ n atomic.Int64 }

// acquire counts one more request, and reports false if limit requests are in progress
// already. A negative limit means no limit.
func (f *inFlight) acquire(limit int) bool {
	if f.n.Add(1) > int64(limit) && limit >= 0 {
		f.n.Add(-1)
		return false
	}
	return true
}

// release ends a request that acquire has counted.
func (f *inFlight) release() { f.n.Add(-1) }

// inFlightOf returns the counter of an application's requests.
func (e *Engine) inFlightOf(application string) *inFlight {
	if f, ok := e.connections.applications.Load(application); ok {
		return f.(*inFlight)
	}
	f, _ := e.connections.applications.LoadOrStore(application, &inFlight{})
	return f.(*inFlight)
}

// Admit counts a request as in progress until Release. Its error is
// [record.ErrTooManyRequests].
func (r *Refresher) Admit(cfg *record.Config) error {
	if limit := cfg.Limits.PerApplication(r.Key.Application); !r.admissions.application.acquire(limit) {
		r.DropIfUnknown()
		return fmt.Errorf("%w: application %s has %d of them; try again when some have ended",
			record.ErrTooManyRequests, record.Quote(r.Key.Application), limit)
	}
	if limit := cfg.Limits.PerConnection(); !r.admissions.own.acquire(limit) {
		r.admissions.application.release()
		r.DropIfUnknown()
		return fmt.Errorf("%w: this connection has %d of them; try again when some have ended", record.ErrTooManyRequests, limit)
	}
	return nil
}

// Release ends a request that Admit has counted.
func (r *Refresher) Release() {
	r.admissions.own.release()
	r.admissions.application.release()
	r.DropIfUnknown()
}
