package sweep

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"github.com/tokenbroker/caddy-token-broker/broker/internal/clock"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// tend does the work that is due for one connection.
func (p *pass) tend(ctx context.Context, key record.Key) error {
	rec, _, err := p.Records.Load(ctx, key)
	if errors.Is(err, record.ErrNotFound) {
		p.vigil.drop(key)
		return nil
	}
	if err != nil {
		return err
	}
	cfg, now := p.Config(), clock.MomentOf(p.Clock)
	if p.vigil.isTime(rec, now) {
		if rec.IsTombstone() {
			err = p.purge(ctx, rec)
		} else {
			err = p.clearCredentials(ctx, rec)
		}
		if err == nil {
			p.vigil.drop(key)
		}
		return err
	}
	conn := cfg.Connectors[key.Connector]
	switch {
	case rec.IsTombstone() || conn == nil:
		return nil
	case rec.IsNeglected(conn, now.Wall):
		return p.resume(ctx, rec, conn)
	case rec.IsIdle(conn, cfg.RefreshIdleAfter(), now.Wall):
		p.refreshIdle(ctx, rec, conn)
	}
	return nil
}

// purgeLease is how long an import waits for a tombstone that is being purged.
const purgeLease = 10 * time.Second

// purge removes a tombstone for good. Stores cannot delete by compare-and-set, and an
// import may come at any time. So the tombstone gets a lease first, which imports respect,
// and the deletion takes at most half of it.
func (p *pass) purge(ctx context.Context, seen *record.Record) error {
	lease := &record.Lease{ID: uuid.NewString(), Duration: purgeLease}
	begun := p.now()
	rec, _, err := p.Records.UpdateIf(ctx, seen.Key, func(rec *record.Record) *record.Record {
		if rec == nil || !rec.IsTombstone() || !rec.Deleted.Equal(seen.Deleted) {
			return nil
		}
		rec.Lease = lease
		return rec
	})
	if err != nil || rec == nil {
		return err
	}
	left := purgeLease/2 - p.now().Sub(begun)
	if left <= 0 {
		return nil // the next pass tries again
	}
	ctx, cancel := context.WithTimeout(ctx, left)
	defer cancel()
	if err := p.Records.Delete(ctx, seen.Key); err != nil {
		return err
	}
	p.did.purged++
	return nil
}

// clearCredentials removes the credentials of a connection whose retention has ended, if it
// is still parked with the refresh token in seen.
func (p *pass) clearCredentials(ctx context.Context, seen *record.Record) error {
	rec, rev, err := p.Records.UpdateIf(ctx, seen.Key, func(rec *record.Record) *record.Record {
		if rec == nil || !rec.HasRetention() || rec.Cycle.Parked != seen.Cycle.Parked {
			return nil
		}
		rec.Credentials, rec.Lease = nil, nil
		rec.Generation++
		rec.UpdatedAt = p.Clock.Now()
		return rec
	})
	if err != nil || rec == nil {
		return err
	}
	p.did.cleared++
	p.Connections.Install(ctx, rec, rev)
	p.Config().Log().LogAttrs(ctx, slog.LevelWarn, "credentials cleared: the connection could not be refreshed for the retention time",
		slog.String("connection", seen.Key.String()))
	return nil
}

// resume starts a refresh of a neglected connection. It first marks the record as queued,
// because the token alone may not be due for a refresh.
func (p *pass) resume(ctx context.Context, seen *record.Record, conn *record.Connector) error {
	if !seen.Cycle.Queued {
		rec, rev, err := p.Records.UpdateIf(ctx, seen.Key, func(rec *record.Record) *record.Record {
			if rec == nil || rec.IsTombstone() || !rec.IsNeglected(conn, p.Clock.Now()) {
				return nil
			}
			rec.Cycle.Queued = true
			return rec
		})
		if err != nil || rec == nil {
			return err
		}
		p.Connections.Install(ctx, rec, rev)
	}
	p.did.resumed++
	p.Connections.Refresh(ctx, seen.Key)
	return nil
}
