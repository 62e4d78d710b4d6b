package tests

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/tests/oauthserver"
)

// chaosSlack bounds the delay between an event and its record.
const chaosSlack = 5 * time.Second

// A history is what the OAuth server and the brokers' logs tell about a connection.
type history struct {
	requests  []oauthserver.TokenRequest // in the order of arrival
	leases    []logLine                  // leases taken
	ambiguous []logLine                  // ambiguous outcomes, and leases taken over
}

// verify compares what the brokers recorded with what happened.
func (c *chaos) verify(t *testing.T) {
	t.Helper()
	leases := make(map[string]logLine) // taken, by id
	histories := make(map[string]*history)
	for i := range chaosConnections {
		histories[chaosCustomer(i)] = &history{requests: c.provider.TokenRequests(chaosCustomer(i))}
	}
	for _, r := range c.replicas {
		for _, line := range r.logged() {
			h := histories[line.customer()]
			if h == nil {
				continue
			}
			if line.Lease != "" {
				leases[line.Lease] = line
			}
			if line.Lease != "" && !isUnsaved(line) {
				h.leases = append(h.leases, line)
			}
			if isAmbiguous(line) {
				h.ambiguous = append(h.ambiguous, line)
			}
		}
	}
	revoked, redeems, ambiguous := 0, 0, 0
	for customer, h := range histories {
		slices.SortFunc(h.ambiguous, func(a, b logLine) int { return a.At.Compare(b.At) })
		c.wantResendsRecorded(t, customer, h)
		c.wantRecordsReal(t, customer, h, leases)
		redeems += len(h.requests)
		ambiguous += len(h.ambiguous)
		if c.isRevoked(customer) {
			revoked++
			if len(h.ambiguous) == 0 {
				t.Errorf("%s: the grant was revoked, and nothing was recorded as ambiguous: %+v", customer, h.requests)
			}
		}
	}
	t.Logf("%d token requests, %d of them without a complete response; %d ambiguous outcomes; %d of %d grants revoked",
		redeems, len(c.provider.Undelivered()), ambiguous, revoked, chaosConnections)
	if redeems < chaosConnections || revoked > chaosConnections/2 {
		t.Error("want a refresh of each connection and at most half of the grants revoked")
	}
	c.reportCalls(t)
	c.reportDowntimes(t)
}

// isAmbiguous reports whether the line records an ambiguous outcome. The event that follows
// from one does not count.
func isAmbiguous(l logLine) bool {
	return l.Class == "ambiguous" && !strings.HasPrefix(l.Message, "vault.") || isTakeover(l)
}

// isUnsaved reports whether the line is about a lease that may not be in the store, because
// Vault did not answer. Its holder sends nothing; other replicas cannot know that.
func isUnsaved(l logLine) bool {
	return strings.HasPrefix(l.Message, "the store did not say whether it has saved a lease")
}

func isTakeover(l logLine) bool { return strings.Contains(l.Message, "was taken over") }

// wantResendsRecorded checks that a refresh token was sent again only after the outcome of the
// first request was recorded as ambiguous, unless that request cannot have spent it.
func (c *chaos) wantResendsRecorded(t *testing.T, customer string, h *history) {
	t.Helper()
	last := make(map[int]oauthserver.TokenRequest)
	for _, r := range h.requests {
		before, again := last[r.Refresh.Number]
		last[r.Refresh.Number] = r
		if !again || before.Status == http.StatusServiceUnavailable {
			continue
		}
		recorded := slices.ContainsFunc(h.ambiguous, func(l logLine) bool {
			// The sender can give up, or lose its lease, before the request arrives.
			return l.At.After(before.Arrived.Add(-chaosSlack)) && l.At.Before(r.Arrived)
		})
		if !recorded {
			t.Errorf("%s: refresh token %d was sent by replica %s %v into the chaos, and again by %s after %v, and no replica recorded an ambiguous outcome: %+v, %+v",
				customer, r.Refresh.Number, before.Source, before.Arrived.Sub(c.begun), r.Source, r.Arrived.Sub(before.Arrived), before, r)
		}
	}
}

// wantRecordsReal checks that each outcome recorded as ambiguous was one: the OAuth server did
// not deliver the complete response in time, or the process was killed, paused or cut off
// between taking the lease and saving.
func (c *chaos) wantRecordsReal(t *testing.T, customer string, h *history, leases map[string]logLine) {
	t.Helper()
	unmatched := slices.Clone(h.requests)
	for _, l := range h.ambiguous {
		if isTakeover(l) {
			c.wantHolderBroken(t, customer, l, leases)
			continue
		}
		i := slices.IndexFunc(unmatched, func(r oauthserver.TokenRequest) bool {
			near := l.At.Sub(r.Arrived).Abs() < chaosSlack
			return near && r.Source == "from="+l.Replica && (!r.Delivered || r.Status >= 500 || h.gaveUp(l, r))
		})
		switch {
		case i >= 0:
			unmatched = slices.Delete(unmatched, i, i+1)
		case !c.wasBroken(l.At.Add(-chaosSlack), l.At, l.Replica, processFault):
			t.Errorf("%s: replica %s recorded an ambiguous outcome (%s) %v into the chaos, and there was no fault: %+v",
				customer, l.Replica, l.Code, l.At.Sub(c.begun), h.requests)
		}
	}
}

// gaveUp reports whether the replica gave up on a response that the OAuth server did write,
// after waiting for the whole timeout. When the server wrote it proves nothing: on a busy
// machine the end of a body can reach a replica long after the header.
func (h *history) gaveUp(l logLine, r oauthserver.TokenRequest) bool {
	waited := slices.ContainsFunc(h.leases, func(lease logLine) bool {
		since := l.At.Sub(lease.At)
		return lease.Replica == l.Replica && since >= chaosTimeout && since < chaosTimeout+chaosSlack
	})
	return l.Code == "no_answer" && waited && r.Answered.After(l.At.Add(-chaosTimeout))
}

// wantHolderBroken checks that a fault kept the process whose lease was taken over from
// releasing it.
func (c *chaos) wantHolderBroken(t *testing.T, customer string, takeover logLine, leases map[string]logLine) {
	t.Helper()
	taken, known := leases[takeover.From]
	if known && isUnsaved(taken) {
		return
	}
	from, holder := taken.At.Add(-chaosSlack), taken.Replica
	if !known { // the holder did not get to log it
		// The others observed the lease for all of its duration, with reads that can be slow.
		from, holder = takeover.At.Add(-2*chaosAftermath), ""
	}
	if !c.wasBroken(from, takeover.At, holder, processFault, networkFault, vaultFault) {
		t.Errorf("%s: replica %s took over a lease of replica %q %v into the chaos, taken %v before, and there was no fault",
			customer, takeover.Replica, holder, takeover.At.Sub(c.begun), takeover.At.Sub(taken.At))
	}
}
