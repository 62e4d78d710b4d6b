// Package storecopy copies the connections of one store into another: records as they are, each
// by compare-and-set. It can be broken off at any point, also by a crash, and run again.
//
// A connection is put into standby in the old store before it is copied, so that only one of
// the two stores ever has a process that redeems its refresh token. The copy is not in standby,
// unless the connection was before. That it was not must survive a crash, so a reservation in
// the new store comes first: a tombstone, which every broker takes for a connection that does
// not exist. The order of writes for one connection is
//
//  1. the reservation in the new store, unless the connection is in standby already
//  2. standby in the old store
//  3. the copy, in place of the reservation
package storecopy

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/tokenbroker/caddy-token-broker/broker/internal/quiesce"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// A Report says what [Copy] did.
type Report struct {
	Copied   int   // connections
	Present  int   // connections that were there already, from an earlier run
	Deleted  int   // tombstones of deleted connections, copied or there already
	Standby  int   // connections that were put into standby in the old store
	Verified int   // connections and tombstones that were read again, and are the same in both stores
	Differ   Names // the new store has them, and not as copies: they were left alone in both stores
	Missing  Names // they appeared, or were activated, in the old store during the copy
	Unknown  Names // copied with the lease of a process that is gone: the outcome of its refresh is unknown
}

// Complete reports whether the new store has a copy of everything.
func (r *Report) Complete() bool { return r.Differ.Count == 0 && r.Missing.Count == 0 }

// Names are names of connections. Only the first ones are kept.
type Names struct {
	Count int
	First []string
}

// maxNames is how many names a report keeps.
const maxNames = 100

func (n *Names) add(key record.Key) {
	if n.Count++; len(n.First) < maxNames {
		n.First = append(n.First, key.String())
	}
}

// A Config says what to copy.
type Config struct {
	From, To record.Store

	// Replace is for connections that the new store has, and not as copies. They are replaced,
	// unless the new store has later credentials.
	Replace bool
}

// Copy copies all connections from one store to the other, and compares both at the end. What
// the new store has already, and not as a copy, stays as it is. The report is not nil, even if
// there is an error.
func Copy(ctx context.Context, config Config) (*Report, error) {
	c := &copying{Config: config, holder: quiesce.New(config.From)}
	from, everything := config.From, quiesce.Selection{}
	err := quiesce.InOrder(ctx, everything.Keys(ctx, from), c.hold, nil)
	if err == nil {
		err = quiesce.InOrder(ctx, everything.Keys(ctx, from), c.copy, nil)
	}
	if err == nil {
		err = quiesce.InOrder(ctx, everything.Keys(ctx, from), c.verify, nil)
	}
	return &c.report, err
}

// A copying is one run of [Copy].
type copying struct {
	Config
	holder *quiesce.Holder

	mu     sync.Mutex
	report Report // guarded by mu
}

func (c *copying) note(note func(*Report)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	note(&c.report)
}

// none is the result of a step.
type none struct{}

// errLeave ends a step that must not change its connection.
var errLeave = errors.New("the connection must be left alone")

// hold reserves a connection in the new store, and puts it into standby in the old one.
func (c *copying) hold(ctx context.Context, key record.Key) (none, error) {
	changed, err := c.holder.Hold(ctx, key, func(rec *record.Record) error {
		if rec.IsTombstone() || rec.Standby {
			return nil
		}
		return c.reserve(ctx, rec)
	})
	if errors.Is(err, errLeave) || errors.Is(err, record.ErrNotFound) {
		return none{}, nil // verify finds it again
	}
	if changed {
		c.note(func(r *Report) { r.Standby++ })
	}
	return none{}, err
}

// reserve makes sure that the new store has a reservation for the record, or a copy of it.
func (c *copying) reserve(ctx context.Context, rec *record.Record) error {
	for {
		there, rev, err := c.To.Load(ctx, rec.Key)
		switch {
		case err != nil && !errors.Is(err, record.ErrNotFound):
			return err
		case err == nil && (isReservation(there) || isCopy(rec, there)):
			return nil
		case err == nil && !c.replaces(rec, there):
			return errLeave
		}
		if _, err = c.To.Save(ctx, newReservation(rec), rev); !errors.Is(err, record.ErrConflict) {
			return err
		}
	}
}

// replaces reports whether the record takes the place of one that is not a copy.
func (c *copying) replaces(rec, there *record.Record) bool {
	return c.Replace && there.Generation <= rec.Generation
}

// copy copies one connection that is in standby, or a tombstone.
func (c *copying) copy(ctx context.Context, key record.Key) (none, error) {
	rec, _, resolved, err := c.holder.Settled(ctx, key)
	if errors.Is(err, record.ErrNotFound) || err == nil && (isNothing(rec) || !isStill(rec)) {
		return none{}, nil // verify finds what is still active
	}
	if err != nil {
		return none{}, err
	}
	for {
		there, rev, err := c.To.Load(ctx, key)
		if errors.Is(err, record.ErrNotFound) {
			there, rev, err = rec, 0, nil // it was in standby before
		} else if err == nil && !isReservation(there) && (isCopy(rec, there) || !c.replaces(rec, there)) {
			c.noteThere(rec, there)
			return none{}, nil
		}
		if err == nil {
			copied := rec.Clone()
			copied.Standby = there.Standby
			_, err = c.To.Save(ctx, copied, rev)
		}
		if errors.Is(err, record.ErrConflict) {
			continue
		}
		if err != nil {
			return none{}, fmt.Errorf("copying %s: %w", key, err)
		}
		c.noteCopied(rec, resolved)
		return none{}, nil
	}
}

// noteThere notes a record that the new store already has. verify notes those that differ.
func (c *copying) noteThere(rec, there *record.Record) {
	c.note(func(r *Report) {
		switch {
		case !isCopy(rec, there):
		case rec.IsTombstone():
			r.Deleted++
		default:
			r.Present++
		}
	})
}

func (c *copying) noteCopied(rec *record.Record, resolved bool) {
	c.note(func(r *Report) {
		if !resolved {
			r.Unknown.add(rec.Key)
		}
		if rec.IsTombstone() {
			r.Deleted++
			return
		}
		r.Copied++
	})
}

// verify reads one connection from both stores.
func (c *copying) verify(ctx context.Context, key record.Key) (none, error) {
	rec, _, err := c.From.Load(ctx, key)
	if errors.Is(err, record.ErrNotFound) || err == nil && isNothing(rec) {
		return none{}, nil
	}
	if err != nil {
		return none{}, err
	}
	there, _, err := c.To.Load(ctx, key)
	if err != nil && !errors.Is(err, record.ErrNotFound) {
		return none{}, err
	}
	c.note(func(r *Report) {
		switch {
		case err != nil || isReservation(there):
			r.Missing.add(key)
		case !isCopy(rec, there):
			r.Differ.add(key)
		case !isStill(rec):
			r.Missing.add(key)
		default:
			r.Verified++
		}
	})
	return none{}, nil
}
