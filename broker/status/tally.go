package status

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// pressing are the values of health that need attention, the most pressing first.
var pressing = []record.Health{record.HealthNeedsAuth, record.HealthMissingSettings, record.HealthPendingRefresh}

// A tally adds up connections. It keeps at most max problems of each health.
type tally struct {
	max      int
	rows     map[rowKey]*Counts
	problems map[record.Health][]Problem
}

func (t *tally) add(c *connection) {
	n, ok := t.rows[c.row]
	if !ok {
		n = &Counts{}
		t.rows[c.row] = n
	}
	n.add(&c.counts)
	if p := c.problem; p != nil && len(t.problems[p.Health]) < t.max {
		t.problems[p.Health] = append(t.problems[p.Health], *p)
	}
}

func (t *tally) report() *Report {
	r := &Report{}
	for _, key := range slices.SortedFunc(maps.Keys(t.rows), rowKey.compare) {
		r.Rows = append(r.Rows, Row{key.application, key.connector, *t.rows[key]})
		r.Total.add(t.rows[key])
	}
	for _, health := range pressing {
		found := t.problems[health]
		slices.SortFunc(found, func(a, b Problem) int { return a.Key.Compare(b.Key) })
		listed := found[:min(len(found), t.max-len(r.Problems))]
		r.Problems = append(r.Problems, listed...)
		r.MoreProblems += *r.Total.of(health) - len(listed)
	}
	return r
}

func (k rowKey) compare(other rowKey) int {
	return cmp.Or(strings.Compare(k.application, other.application), k.connector.Compare(other.connector))
}

// of returns the number of connections with a health.
func (n *Counts) of(health record.Health) *int {
	switch health {
	case record.HealthNeedsAuth:
		return &n.NeedsAuth
	case record.HealthMissingSettings:
		return &n.MissingSettings
	case record.HealthPendingRefresh:
		return &n.PendingRefresh
	default:
		return &n.OK
	}
}

func (n *Counts) add(other *Counts) {
	n.Connections += other.Connections
	n.Callable += other.Callable
	n.OK += other.OK
	n.PendingRefresh += other.PendingRefresh
	n.NeedsAuth += other.NeedsAuth
	n.MissingSettings += other.MissingSettings
	n.NotConfigured += other.NotConfigured
	n.Standby += other.Standby
	n.Disabled += other.Disabled
	n.Expired += other.Expired
	n.Expiring += other.Expiring
}

func problemOf(rec *record.Record, health record.Health) *Problem {
	return &Problem{
		Key: rec.Key, Health: health, Disabled: !rec.Enabled, Standby: rec.Standby,
		Class: rec.Cycle.Class, Code: rec.Cycle.Code, Since: since(rec, health),
	}
}

// since returns when a problem began, as far as the record says.
func since(rec *record.Record, health record.Health) time.Time {
	switch {
	case health == record.HealthPendingRefresh && rec.Standby && rec.Credentials != nil:
		return rec.Credentials.Expiry
	case !rec.Cycle.RefusedSince.IsZero():
		return rec.Cycle.RefusedSince
	default:
		return rec.Cycle.FailedAt
	}
}
