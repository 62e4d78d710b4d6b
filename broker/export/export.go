// Package export reads the connections of a store as rows that an import takes: canonical ones,
// or the bodies of another system's imports.
//
// What it exports it puts into standby first. So the rows stay true until the connections are
// activated: no refresh token in them is redeemed, and so none is replaced.
package export

import (
	"context"
	"errors"
	"sync"

	"github.com/tokenbroker/caddy-token-broker/broker/internal/quiesce"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/transfer"
)

// A Config says what to export.
type Config struct {
	Store record.Store

	// Selection says which connections. The zero value means all.
	Selection Selection

	// KeepActive leaves the connections as they are. Then a row is out of date as soon as its
	// connection is refreshed.
	KeepActive bool
}

// A Selection says which connections of a store are meant.
type Selection = quiesce.Selection

// A Report says what was exported.
type Report struct {
	Exported int
	Standby  int // how many connections were put into standby
	Disabled int // exported, and an import would enable them
	Refused  int // exported, and the token endpoint has refused their credentials
	Empty    int // exported without credentials or settings
	Unknown  int // a process died during their refresh: the refresh token may be spent
}

// Run calls write with a row for each connection, in the store's order. It keeps a bounded
// number of them in memory. The report is not nil, even if there is an error. Deleted connections
// have no row.
func Run(ctx context.Context, config Config, write func(*transfer.Row) error) (*Report, error) {
	x := &exporting{Config: config, holder: quiesce.New(config.Store)}
	if !config.KeepActive {
		if err := quiesce.InOrder(ctx, config.Selection.Keys(ctx, config.Store), x.hold, nil); err != nil {
			return &x.report, err
		}
	}
	err := quiesce.InOrder(ctx, config.Selection.Keys(ctx, config.Store), x.read, func(c *connection) error {
		if c == nil {
			return nil
		}
		if err := write(RowOf(c.record)); err != nil {
			return err
		}
		x.note(c)
		return nil
	})
	return &x.report, err
}

// An exporting is one call of [Run].
type exporting struct {
	Config
	holder *quiesce.Holder

	mu     sync.Mutex
	report Report // guarded by mu
}

// A connection is a record that is ready to be written.
type connection struct {
	record   *record.Record
	resolved bool
}

// none is the result of hold.
type none struct{}

// hold puts a connection into standby.
func (x *exporting) hold(ctx context.Context, key record.Key) (none, error) {
	changed, err := x.holder.Hold(ctx, key, nil)
	if changed {
		x.mu.Lock()
		x.report.Standby++
		x.mu.Unlock()
	}
	if errors.Is(err, record.ErrNotFound) {
		return none{}, nil
	}
	return none{}, err
}

// read returns a connection once no refresh of it is in progress, nil if there is none.
func (x *exporting) read(ctx context.Context, key record.Key) (*connection, error) {
	if x.KeepActive {
		rec, _, err := x.Store.Load(ctx, key)
		return x.connection(rec, true, err)
	}
	for {
		rec, _, resolved, err := x.holder.Settled(ctx, key)
		c, err := x.connection(rec, resolved, err)
		if c == nil || rec.Standby {
			return c, err
		}
		if _, err := x.hold(ctx, key); err != nil { // it is new, or was activated
			return nil, err
		}
	}
}

func (x *exporting) connection(rec *record.Record, resolved bool, err error) (*connection, error) {
	if errors.Is(err, record.ErrNotFound) || err == nil && rec.IsTombstone() {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &connection{record: rec, resolved: resolved}, nil
}

// note counts a connection that was written.
func (x *exporting) note(c *connection) {
	r, rec := &x.report, c.record
	r.Exported++
	for _, count := range []struct {
		n  *int
		is bool
	}{
		{&r.Disabled, !rec.Enabled},
		{&r.Refused, rec.NeedsAuth()},
		{&r.Empty, rec.Credentials == nil && len(rec.Settings) == 0},
		{&r.Unknown, !c.resolved},
	} {
		if count.is {
			*count.n++
		}
	}
}
