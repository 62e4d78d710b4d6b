// Package pace spreads the refreshes that no caller waits for, so that a herd of connections
// that are due at the same time does not become a herd of requests, neither at the token
// endpoint nor at the store.
//
// Each token endpoint has a budget: so many refreshes at a time, and so many in a second. A
// refresh that a caller waits for begins at once, but it uses up the budget. The others still
// go on then, one a second: a refresh token may lapse unless it is redeemed. A refresh that
// sends no token request, because none is due or the connection is held back, costs nothing.
package pace

import (
	"cmp"
	"strings"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// The budget of a token endpoint whose connectors set none.
const (
	defaultRate        = 20
	defaultConcurrency = 8
)

// period is what a rate refers to.
const period = time.Second

// A budget bounds the refreshes at one token endpoint that no caller waits for.
type budget struct {
	rate        int // how many begin in a period; 0: not set
	concurrency int // how many are in progress; 0: not set
}

// budgetOf returns what a connector sets.
func budgetOf(conn *record.Connector) budget {
	return budget{int(conn.RefreshRate), conn.RefreshConcurrency}
}

// and returns the budget of an endpoint that two connectors share: the lower of what they set.
func (b budget) and(other budget) budget {
	return budget{lower(b.rate, other.rate), lower(b.concurrency, other.concurrency)}
}

// lower returns the lower of two numbers, of which 0 is not set.
func lower(x, y int) int {
	if x == 0 || y == 0 {
		return max(x, y)
	}
	return min(x, y)
}

// orDefault completes the budget.
func (b budget) orDefault() budget {
	return budget{cmp.Or(b.rate, defaultRate), cmp.Or(b.concurrency, defaultConcurrency)}
}

// hostOf returns the host of the token endpoint for the record. Providers limit requests to a
// host, whichever path a tenant has there. rec may be nil: without the record, tenants whose
// hosts differ share the template.
func hostOf(conn *record.Connector, rec *record.Record) string {
	endpoint := cmp.Or(conn.RefreshURL, conn.TokenURL)
	if rec != nil {
		if rendered, err := conn.TokenEndpoint(rec); err == nil {
			endpoint = rendered // otherwise a setting is missing, and no request will be sent
		}
	}
	_, host, _ := strings.Cut(endpoint, "://")
	if end := strings.IndexAny(host, "/?#"); end >= 0 {
		host = host[:end]
	}
	return strings.ToLower(host)
}

// A Rank orders the refreshes that wait for the same endpoint. The lowest goes first.
type Rank int

// The ranks of refreshes.
const (
	InUse    Rank = iota // a call was served a token that expires soon
	Again                // an earlier attempt failed or was held back
	Imported             // an import brought a token that has expired
	Unused               // the sweep found it
	ranks
)
