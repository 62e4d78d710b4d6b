// Package status counts the connections of a store by state and health, and finds those that need
// attention. It changes nothing, and what it returns has no secrets.
package status

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/quiesce"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// A Config says what to count.
type Config struct {
	Store record.Store

	// Selection says which connections. The zero value means all.
	Selection Selection

	// Connectors are those that are configured.
	Connectors map[connector.ID]*connector.Definition

	// Now is the time of the report.
	Now time.Time

	// MaxProblems is how many connections that need attention the report lists.
	MaxProblems int

	// Read, if not nil, counts the records that were read so far.
	Read *atomic.Int64
}

// A Selection says which connections of a store are meant.
type Selection = quiesce.Selection

// A Report says what is stored.
type Report struct {
	Rows  []Row // by application and connector
	Total Counts

	// Problems are connections whose health is not ok: the most pressing need first, then by
	// application, consumer and connector. MoreProblems is how many are left out.
	Problems     []Problem
	MoreProblems int
}

// A Row counts the connections of an application and a connector.
type Row struct {
	Application string
	Connector   connector.ID
	Counts
}

// Counts are numbers of connections. Each connection has one health, or its connector is not
// configured. The other numbers overlap.
type Counts struct {
	Connections int `json:"connections"`
	Callable    int `json:"callable"` // by state

	// By health.
	OK              int `json:"ok"`
	PendingRefresh  int `json:"pending_refresh"`
	NeedsAuth       int `json:"needs_auth"`
	MissingSettings int `json:"missing_settings"`

	NotConfigured int `json:"not_configured"` // the connector, so state and health are unknown
	Standby       int `json:"standby"`
	Disabled      int `json:"disabled"`
	Expired       int `json:"expired"`  // the access token
	Expiring      int `json:"expiring"` // the access token, within [Soon]
}

// Soon is how far ahead of its expiry an access token counts as expiring.
const Soon = time.Hour

// A Problem is a connection whose health is not ok.
type Problem struct {
	Key      record.Key
	Health   record.Health
	Disabled bool
	Standby  bool
	Class    record.Class // of the last failed refresh; may be empty
	Code     string       // of the last failed refresh; may be empty

	// Since is when the token endpoint first refused the refresh token or, in standby, the access
	// token expired; otherwise the time of the last failed refresh. It is zero if unknown.
	Since time.Time
}

// A rowKey identifies a [Row].
type rowKey struct {
	application string
	connector   connector.ID
}

// A connection is what a record adds to the report.
type connection struct {
	row     rowKey
	counts  Counts
	problem *Problem // nil if there is none
}

// Run reads the records of a store, several at a time, and keeps a bounded number in memory.
func Run(ctx context.Context, config Config) (*Report, error) {
	t := &tally{max: config.MaxProblems, rows: make(map[rowKey]*Counts), problems: make(map[record.Health][]Problem)}
	err := quiesce.InOrder(ctx, config.Selection.Keys(ctx, config.Store), config.read, func(c *connection) error {
		if c != nil {
			t.add(c)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return t.report(), nil
}

// read returns what a record adds to the report, nil if the connection was deleted.
func (c *Config) read(ctx context.Context, key record.Key) (*connection, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	rec, _, err := c.Store.Load(ctx, key)
	if errors.Is(err, record.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if c.Read != nil {
		c.Read.Add(1)
	}
	if rec.IsTombstone() {
		return nil, nil
	}
	return c.count(rec), nil
}

// count returns what the record of a connection adds to the report.
func (c *Config) count(rec *record.Record) *connection {
	conn := &connection{row: rowKey{rec.Key.Application, rec.Key.Connector}}
	n := &conn.counts
	n.Connections, n.Standby, n.Disabled = 1, one(rec.Standby), one(!rec.Enabled)
	if cred := rec.Credentials; cred != nil && !cred.AccessToken.IsZero() {
		n.Expired = one(cred.ExpiredAt(c.Now))
		n.Expiring = one(n.Expired == 0 && cred.ExpiredAt(c.Now.Add(Soon)))
	}
	def, ok := c.Connectors[rec.Key.Connector]
	if !ok {
		n.NotConfigured = 1
		return conn
	}
	view := rec.View(def, c.Now)
	n.Callable = one(view.State == record.StateCallable)
	*n.of(view.Health) = 1
	if view.Health != record.HealthOK {
		conn.problem = problemOf(rec, view.Health)
	}
	return conn
}

func one(is bool) int {
	if is {
		return 1
	}
	return 0
}
