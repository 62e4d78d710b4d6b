package tests

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
)

// The calls during the chaos.
const (
	chaosCallEvery   = 2 * time.Second // interval between the calls of a connection
	chaosCallTimeout = 8 * time.Second
	// How long a fault may affect calls: they wait for a lease (9 s), and then for a retry.
	chaosAftermath = 30 * time.Second
)

// A call is a call through the sidecar and its outcome.
type call struct {
	customer     string
	replica      string
	begun, ended time.Time
	answer       answer
	err          error
}

func (c call) ok() bool { return c.err == nil && c.answer.status == http.StatusOK }

// kind describes the outcome of the call in a few words.
func (c call) kind() string {
	switch {
	case c.err != nil && errors.Is(c.err, context.DeadlineExceeded):
		return "no answer in time"
	case c.err != nil:
		return "no answer"
	}
	by := "by downstream"
	if name := c.answer.header.Get("X-Token-Broker-Error"); name != "" {
		by = name
		var body struct {
			Detail struct{ Debug struct{ Code string } }
		}
		if json.Unmarshal(c.answer.body, &body) == nil && body.Detail.Debug.Code != "" {
			by += " " + body.Detail.Debug.Code
		}
	}
	return fmt.Sprintf("%d %s", c.answer.status, by)
}

// callSteadily calls each connection at intervals, through the replicas in turn, until stop.
func (c *chaos) callSteadily(t *testing.T) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var calling sync.WaitGroup
	for i := range chaosConnections {
		calling.Go(func() {
			wait := time.Duration(i) * chaosCallEvery / chaosConnections // spread over the interval
			for next := i; ; next++ {
				select {
				case <-ctx.Done():
					return
				case <-time.After(wait):
				}
				c.call(chaosCustomer(i), c.replicas[next%len(c.replicas)])
				wait = chaosCallEvery
			}
		})
	}
	stop = func() {
		cancel()
		calling.Wait()
	}
	t.Cleanup(stop)
	return stop
}

func (c *chaos) call(customer string, r *replica) call {
	ctx, cancel := context.WithTimeout(context.Background(), chaosCallTimeout)
	defer cancel()
	made := call{customer: customer, replica: r.name, begun: time.Now()}
	url := r.process().sidecarURL("/acme/contacts")
	made.answer, made.err = try(ctx, http.MethodGet, url, http.Header{"X-Apideck-Consumer-Id": {customer}}, "")
	made.ended = time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls = append(c.calls, made)
	return made
}

// settle calls each connection until it works or, if its grant was revoked, needs to be
// authorised again.
func (c *chaos) settle(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(chaosHealing)
	if err := inParallel(chaosConnections, func(i int) error {
		customer, next := chaosCustomer(i), i
		return brokertest.Retry(time.Until(deadline), func() error {
			got := c.call(customer, c.replicas[next%len(c.replicas)])
			next++
			revoked := c.isRevoked(customer)
			if got.ok() && !revoked || revoked && got.kind() == "401 UnauthorizedError invalid_grant" {
				return nil
			}
			return errors.Join(fmt.Errorf("%s: its grant is revoked: %t; the last call: %s", customer, revoked, got.answer), got.err)
		})
	}); err != nil {
		t.Errorf("connections did not recover within %v:\n%v", chaosHealing, err)
	}
}

// isRevoked reports whether a spent refresh token of the customer was sent, which revokes the
// grant.
func (c *chaos) isRevoked(customer string) bool {
	for _, r := range c.provider.TokenRequests(customer) {
		if r.Reused {
			return true
		}
	}
	return false
}

// explains reports whether a fault, or a revocation caused by one, explains a failed call.
func (c *chaos) explains(failed call) bool {
	since := failed.begun.Add(-chaosAftermath)
	during := func(kinds ...string) bool { return c.wasBroken(failed.begun, failed.ended, failed.replica, kinds...) }
	switch kind := failed.kind(); kind {
	case "no answer":
		return during(processFault, shutdownFault, reloadFault)
	case "no answer in time", "503 ServiceUnavailableError":
		// After the healing, settle sets a deadline for all connections.
		return failed.begun.After(c.healed) || c.wasBroken(since, failed.ended, "", processFault, networkFault, vaultFault, endpointFault) ||
			during(shutdownFault)
	case "401 UnauthorizedError invalid_grant":
		return c.isRevoked(failed.customer)
	case "401 by downstream":
		// The token was replaced or revoked, and the replica could not load the new one.
		return c.isRevoked(failed.customer) || c.wasBroken(since, failed.ended, "", processFault, networkFault, vaultFault, endpointFault)
	default:
		return false
	}
}

// reportCalls counts the calls by outcome, and checks that a fault explains each failure.
func (c *chaos) reportCalls(t *testing.T) {
	t.Helper()
	kinds, unexplained := make(map[string]int), make(map[string][]call)
	for _, made := range c.calls {
		if made.ok() {
			kinds["200"]++
			continue
		}
		kind := made.kind()
		kinds[kind]++
		if !c.explains(made) {
			unexplained[kind] = append(unexplained[kind], made)
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		t.Logf("%6d calls: %s", kinds[kind], kind)
	}
	for kind, calls := range unexplained {
		first := calls[0]
		t.Errorf("no fault explains %d calls that ended with %s; the first, %v into the chaos, of %s through replica %s: %v %v",
			len(calls), kind, first.begun.Sub(c.begun), first.customer, first.replica, first.answer, first.err)
	}
}

// A downtime is a period in which no call of a connection succeeded.
type downtime struct {
	customer string
	begun    time.Time
	length   time.Duration
	kinds    map[string]int // calls by outcome
}

// reportDowntimes logs the longest downtime of each connection, measured from the start of its
// first failed call. Connections that were revoked do not count.
func (c *chaos) reportDowntimes(t *testing.T) {
	t.Helper()
	calls := slices.Clone(c.calls)
	slices.SortFunc(calls, func(a, b call) int { return a.ended.Compare(b.ended) })
	current, longest := make(map[string]*downtime), make(map[string]downtime)
	for _, made := range calls {
		down := current[made.customer]
		switch {
		case made.ok() && down != nil:
			if down.length = made.ended.Sub(down.begun); down.length > longest[made.customer].length {
				longest[made.customer] = *down
			}
			delete(current, made.customer)
		case !made.ok():
			if down == nil {
				down = &downtime{customer: made.customer, begun: made.begun, kinds: make(map[string]int)}
				current[made.customer] = down
			}
			down.kinds[made.kind()]++
		}
	}
	var downtimes []downtime
	for i := range chaosConnections {
		if customer := chaosCustomer(i); !c.isRevoked(customer) {
			downtimes = append(downtimes, longest[customer])
		}
	}
	if len(downtimes) == 0 {
		t.Fatal("every connection was revoked")
	}
	slices.SortFunc(downtimes, func(a, b downtime) int { return cmp.Compare(a.length, b.length) })
	var each strings.Builder
	for i, o := range downtimes {
		if i%8 == 0 {
			each.WriteString("\n")
		}
		fmt.Fprintf(&each, "  %s %6.2f s", o.customer, o.length.Seconds())
	}
	t.Logf("the longest downtime of each connection that was not revoked:%s", &each)
	last := downtimes[len(downtimes)-1]
	t.Logf("longest downtimes of %d connections: median %v, maximum %v: %s, %v into the chaos, %v",
		len(downtimes), downtimes[len(downtimes)/2].length.Round(time.Millisecond), last.length.Round(time.Millisecond),
		last.customer, last.begun.Sub(c.begun).Round(time.Millisecond), last.kinds)
}
