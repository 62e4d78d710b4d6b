package tests

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/tests/oauthserver"
)

// overlapCalls are the calls during an overlap.
type overlapCalls struct {
	stop func()

	mu   sync.Mutex
	made []overlapCall // guarded by mu
}

// An overlapCall is a call with a path of its own, by which the OAuth server's API knows it.
type overlapCall struct {
	call
	path string
}

// callSteadily calls each connection at intervals, through the processes in turn.
func (o *overlap) callSteadily(t *testing.T) *overlapCalls {
	ctx, cancel := context.WithCancel(t.Context())
	var calling sync.WaitGroup
	calls := &overlapCalls{stop: func() {
		cancel()
		calling.Wait()
	}}
	for i, customer := range o.customers {
		calling.Go(func() {
			for n := i; ctx.Err() == nil; n++ {
				made := overlapCall{call{customer: customer, begun: time.Now()}, fmt.Sprintf("/contacts/%d", n)}
				p := o.processes[n%len(o.processes)]
				made.answer, made.err = p.tryCall("/acme"+made.path, customer)
				made.ended = time.Now()
				calls.add(made)
				select {
				case <-ctx.Done():
				case <-time.After(overlapCallEvery):
				}
			}
		})
	}
	t.Cleanup(calls.stop)
	return calls
}

func (c *overlapCalls) add(made overlapCall) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.made = append(c.made, made)
}

// wantOutcome returns an error unless a call since then had that outcome.
func (c *overlapCalls) wantOutcome(kind string, since time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !slices.ContainsFunc(c.made, func(made overlapCall) bool { return made.begun.After(since) && made.kind() == kind }) {
		return fmt.Errorf("no call since %v ended with %s", since, kind)
	}
	return nil
}

// held returns the token of a customer that the broker was given last before a time.
func (o *overlap) held(customer string, at time.Time) (held oldRow) {
	for _, given := range o.imported {
		if !given.by.After(at) {
			held = given.rows[customer]
		}
	}
	return held
}

// explains reports whether the old system explains a failed call: the token was replaced or has
// expired, and the broker was in standby and could not have a newer one. numbers are those of the
// access tokens that downstream saw.
func (o *overlap) explains(failed overlapCall, numbers []int) bool {
	if failed.begun.After(o.activated.Add(o.behind)) && failed.ended.Before(o.leaving) {
		return false
	}
	held := o.held(failed.customer, failed.begun.Add(-o.behind))
	expired := !held.expires.After(failed.ended)
	switch failed.kind() {
	case "503 StandbyError":
		return expired
	case "401 by downstream":
		last := slices.Max(append(numbers, -1))
		if len(o.processes) > 1 && o.isSwitching(failed) {
			return true // another replica's refresh may be in progress, which standby waits for
		}
		return last > held.number || last == held.number && (expired || o.replaced(failed.customer, last, failed.ended))
	default:
		return false
	}
}

// isSwitching reports whether the call was made while the connections were put into standby.
func (o *overlap) isSwitching(made overlapCall) bool {
	return made.ended.After(o.leaving) && made.begun.Before(o.left.Add(o.behind))
}

// replaced reports whether the old system had asked for a token's successor by then.
func (o *overlap) replaced(customer string, number int, by time.Time) bool {
	return slices.ContainsFunc(o.provider.TokenRequests(customer), func(r oauthserver.TokenRequest) bool {
		return r.Source == oldSource && r.Refresh.Number == number && r.Arrived.Before(by)
	})
}

// wantExplained counts the calls by outcome, and checks that each failure is explained.
func (o *overlap) wantExplained(t *testing.T) {
	t.Helper()
	kinds := make(map[string]int)
	numbers := make(map[string][]int) // of access tokens, by customer and path
	for _, customer := range o.customers {
		for _, seen := range o.provider.Calls(customer) {
			numbers[customer+seen.Path] = append(numbers[customer+seen.Path], seen.Token.Number)
		}
	}
	for _, made := range o.calls.made {
		kinds[made.kind()]++
		if seen := numbers[made.customer+made.path]; !made.ok() && !o.explains(made, seen) {
			held := o.held(made.customer, made.begun.Add(-o.behind))
			t.Errorf("a call of %s, %v after the activation, which took %v: %v, %v; downstream saw tokens %v, the broker was given token %d, which expired %v before",
				made.customer, made.ended.Sub(o.activated), o.activated.Sub(o.activating), made.answer, made.err, seen, held.number, made.ended.Sub(held.expires))
		}
	}
	t.Logf("calls: %v", kinds)
}
