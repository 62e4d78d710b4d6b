package pace

import (
	"slices"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/clock"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/priority"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// maxHold is how long the refreshes that callers wait for hold up the next one that no caller
// waits for. It is no shorter than the lowest rate allows.
const maxHold = time.Second

// share is how often a refresh is taken from each rank in turn rather than from the first:
// once in so many. A herd of one rank must not hold up another for ever.
const share = 4

// An endpoint is the state of the token endpoints on one host. The queue's mu guards it.
type endpoint struct {
	connectors map[connector.ID]budget // what those that were seen here set
	budget     budget                  // of all of them

	waiting [ranks]priority.Queue[*Ticket]
	pending int // waiting tickets of all ranks
	turn    int // counts what was taken from waiting

	running   int             // refreshes in progress
	unawaited int             // those of them that no caller waited for when they began
	begun     []clock.Instant // when the last ones began that sent a request or may, the oldest first; at most as many as the rate
	lastAt    clock.Instant   // when the last one began that no caller waited for
	alarm     clock.Alarm     // begins the next one
}

// join notes that the connector has connections here.
func (ep *endpoint) join(conn *record.Connector) {
	b := budgetOf(conn)
	if known, ok := ep.connectors[conn.ID]; !ok || known != b {
		ep.connectors[conn.ID] = b
		ep.agree()
	}
}

// agree sets the budget from what the connectors set.
func (ep *endpoint) agree() {
	var all budget
	for _, b := range ep.connectors {
		all = all.and(b)
	}
	ep.budget = all.orDefault()
}

// nextAt returns when the next refresh that no caller waits for may begin. It reports false if
// the end of another one decides that.
func (ep *endpoint) nextAt() (at clock.Instant, ok bool) {
	if ep.unawaited >= ep.budget.concurrency {
		return 0, false
	}
	latest := ep.lastAt.Add(maxHold)
	if ep.running >= ep.budget.concurrency {
		return latest, true
	}
	return min(ep.rateAllows(), latest), true
}

// rateAllows returns when the rate allows one more refresh. A few begin at once, the others at
// regular intervals: their requests then keep the rate at the endpoint too, even if they
// arrive a little late.
func (ep *endpoint) rateAllows() (at clock.Instant) {
	n := len(ep.begun)
	if all := n - ep.budget.rate; all >= 0 {
		at = ep.begun[all].Add(period)
	}
	if few := n - ep.budget.concurrency; few >= 0 {
		interval := period / time.Duration(ep.budget.rate)
		at = max(at, min(ep.begun[n-1].Add(interval), ep.begun[few].Add(period)))
	}
	return at
}

// allows reports whether a refresh that no caller waits for may begin now.
func (ep *endpoint) allows(now clock.Instant) bool {
	at, ok := ep.nextAt()
	return ok && at <= now
}

// begin counts a refresh that begins now.
func (ep *endpoint) begin(t *Ticket, now clock.Instant) {
	if n := len(ep.begun); n > 0 {
		now = max(now, ep.begun[n-1]) // another goroutine may have read the clock a little later
	}
	t.begunAt = now
	ep.running++
	if !t.awaited {
		ep.unawaited++
		ep.lastAt = now
	}
	if over := len(ep.begun) - ep.budget.rate + 1; over > 0 {
		ep.begun = slices.Delete(ep.begun, 0, over)
	}
	ep.begun = append(ep.begun, now)
}

// end counts a refresh that has ended. If it sent no request its share of the rate is free again.
func (ep *endpoint) end(t *Ticket, sent bool) {
	ep.running--
	if !t.awaited {
		ep.unawaited--
	}
	if sent {
		return
	}
	if i, found := slices.BinarySearch(ep.begun, t.begunAt); found {
		ep.begun = slices.Delete(ep.begun, i, i+1)
	}
}

// isIdle reports whether nothing is lost if the endpoint is forgotten.
func (ep *endpoint) isIdle(now clock.Instant) bool {
	return ep.running == 0 && ep.pending == 0 && (len(ep.begun) == 0 || now.Sub(ep.begun[len(ep.begun)-1]) >= period)
}

// push adds a ticket to those that wait.
func (ep *endpoint) push(t *Ticket) {
	ep.waiting[t.rank.Load()].Push(t)
	ep.pending++
}

// remove removes a waiting ticket.
func (ep *endpoint) remove(t *Ticket) {
	ep.waiting[t.rank.Load()].Remove(t)
	ep.pending--
}

// pop removes and returns the ticket that comes next. There must be one.
func (ep *endpoint) pop() *Ticket {
	ep.turn++
	if rank := ep.turn / share % int(ranks); ep.turn%share == 0 && ep.waiting[rank].Len() > 0 {
		return ep.popFrom(rank)
	}
	rank := 0
	for ep.waiting[rank].Len() == 0 {
		rank++
	}
	return ep.popFrom(rank)
}

func (ep *endpoint) popFrom(rank int) *Ticket {
	t := ep.waiting[rank].First()
	ep.remove(t)
	return t
}
