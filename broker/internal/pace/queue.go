package pace

import (
	"context"
	"sync"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/clock"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// A Queue holds the refreshes that wait for the budget of their token endpoint. Methods whose
// callers hold locks are told the time: in a test, reading a clock may block.
type Queue struct {
	clock clock.Clock
	run   func(work func(ctx context.Context)) bool

	mu        sync.Mutex
	endpoints map[string]*endpoint // guarded by mu; by host
	pruneAt   int                  // guarded by mu; the number of endpoints at which idle ones are dropped
	closed    bool                 // guarded by mu
}

// minPrune is how many endpoints may be idle and remembered.
const minPrune = 64

// NewQueue returns an empty queue. run runs work in a goroutine until its ctx ends, or reports
// false if no work begins any longer.
func NewQueue(clk clock.Clock, run func(work func(ctx context.Context)) bool) *Queue {
	return &Queue{clock: clk, run: run, endpoints: make(map[string]*endpoint), pruneAt: minPrune}
}

// A Request says which connection a refresh is for.
type Request struct {
	Connector *record.Connector // nil: it is not configured
	Record    *record.Record    // nil: it is not in memory
}

// Enter asks to begin a refresh that no caller waits for. If the budget allows it now, Enter
// reports true. Otherwise begin is called later, in a goroutine and without locks held; it must
// not block. Within a rank the refresh that is due first begins first. The caller must end the
// ticket when a refresh that has begun has ended.
func (q *Queue) Enter(now clock.Moment, req Request, rank Rank, due time.Time, begin func()) (t *Ticket, begun bool) {
	if due.IsZero() {
		due = now.Wall
	}
	t = &Ticket{queue: q, due: due, begin: begin}
	t.rank.Store(int32(rank))
	host := req.host()
	q.mu.Lock()
	defer q.mu.Unlock()
	t.endpoint = q.endpoint(host, req, now.Mono)
	if q.closed || t.endpoint.pending == 0 && t.endpoint.allows(now.Mono) {
		t.endpoint.begin(t, now.Mono)
		return t, true
	}
	t.endpoint.push(t)
	q.arrange(t.endpoint, now.Mono)
	return t, false
}

// Begin notes a refresh that begins now because a caller waits for it. The caller must end the
// ticket.
func (q *Queue) Begin(now clock.Instant, req Request) *Ticket {
	t := &Ticket{queue: q, awaited: true}
	host := req.host()
	q.mu.Lock()
	defer q.mu.Unlock()
	t.endpoint = q.endpoint(host, req, now)
	t.endpoint.begin(t, now)
	return t
}

// Reconfigured gives the endpoints the budgets of a new configuration.
func (q *Queue) Reconfigured(cfg *record.Config) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, ep := range q.endpoints {
		for id := range ep.connectors {
			if conn := cfg.Connectors[id]; conn != nil {
				ep.connectors[id] = budgetOf(conn)
			} else {
				delete(ep.connectors, id)
			}
		}
		ep.agree()
		if ep.pending > 0 {
			q.run(func(context.Context) { q.proceed(ep) })
		}
	}
}

// Close begins all refreshes that wait, so that the caller can refuse them.
func (q *Queue) Close() {
	var begun []*Ticket
	q.mu.Lock()
	q.closed = true
	for _, ep := range q.endpoints {
		for ep.pending > 0 {
			begun = append(begun, ep.pop())
		}
	}
	q.mu.Unlock()
	beginAll(begun)
}

// beginAll tells the refreshes to begin. The caller holds no lock.
func beginAll(tickets []*Ticket) {
	for _, t := range tickets {
		t.begin()
	}
}

// Locker returns the queue's mutex, for a test that holds every lock that a refresh takes.
func (q *Queue) Locker() sync.Locker { return &q.mu }

// host returns the host of the request's endpoint, empty if it is unknown.
func (req Request) host() string {
	if req.Connector == nil {
		return ""
	}
	return hostOf(req.Connector, req.Record)
}

// endpoint returns the endpoint of a request. The caller holds mu.
func (q *Queue) endpoint(host string, req Request, now clock.Instant) *endpoint {
	ep := q.endpoints[host]
	if ep == nil {
		q.prune(now)
		ep = &endpoint{connectors: make(map[connector.ID]budget)}
		ep.agree()
		q.endpoints[host] = ep
	}
	if req.Connector != nil {
		ep.join(req.Connector)
	}
	return ep
}

// prune drops idle endpoints when there are twice as many as were left the last time. The
// caller holds mu.
func (q *Queue) prune(now clock.Instant) {
	if len(q.endpoints) < q.pruneAt {
		return
	}
	for host, ep := range q.endpoints {
		if ep.isIdle(now) {
			delete(q.endpoints, host)
		}
	}
	q.pruneAt = max(minPrune, 2*len(q.endpoints))
}

// dispatch takes the refreshes off the queue that the budget allows now. The caller holds mu,
// and calls beginAll without it.
func (q *Queue) dispatch(ep *endpoint, now clock.Instant) (begun []*Ticket) {
	if q.closed {
		return nil
	}
	for ep.pending > 0 && ep.allows(now) {
		t := ep.pop()
		ep.begin(t, now)
		begun = append(begun, t)
	}
	q.arrange(ep, now)
	return begun
}

// arrange makes sure that the next refresh begins when the rate allows it. If the number of
// refreshes in progress prevents it, the end of one of them arranges that. The caller holds mu.
func (q *Queue) arrange(ep *endpoint, now clock.Instant) {
	if at, ok := ep.nextAt(); ok && ep.pending > 0 {
		ep.alarm.SetAhead(q.clock, q.run, &q.mu, now, at, func() { q.proceed(ep) })
	}
}

// proceed begins what the budget allows now. The caller holds no lock.
func (q *Queue) proceed(ep *endpoint) {
	now := clock.InstantOf(q.clock)
	q.mu.Lock()
	begun := q.dispatch(ep, now)
	q.mu.Unlock()
	beginAll(begun)
}
