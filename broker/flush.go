package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// replay makes sure that the journal has been read since the broker began, and that
// nothing waits to be saved.
func (b *Broker) replay(ctx context.Context) error {
	if !b.backlog.read.Load() {
		if err := b.adopt(ctx); err != nil {
			return fmt.Errorf("%w: nothing is written before the journal was read: %w", record.ErrStoreUnavailable, err)
		}
		b.backlog.read.Store(true)
	}
	if !b.backlog.pending() {
		return nil
	}
	return b.flush(ctx)
}

// flushAgain is how soon an answer is tried again that cannot be saved for a reason of its
// own: every save of whatever else begins with the backlog.
const flushAgain = 30 * time.Second

// maxFlushes is how many answers are saved at a time. After an outage there can be very
// many, and the leases that keep others from sending the same refresh tokens run out.
const maxFlushes = 16

// flush saves the whole backlog. Its error is that of a store which does not answer;
// what cannot be saved for another reason stays, and blocks its own connection alone.
func (b *Broker) flush(ctx context.Context) error {
	select {
	case <-b.backlog.flushing:
		defer func() { b.backlog.flushing <- struct{}{} }()
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", record.ErrStoreUnavailable, ctx.Err())
	}
	var down atomic.Bool
	var saves errgroup.Group
	saves.SetLimit(maxFlushes)
	for _, u := range b.backlog.list() {
		if isWithin(flushAgain, u.failedAt, b.clock.Now()) {
			continue
		}
		saves.Go(func() error {
			if down.Load() {
				return nil // the error is that of another
			}
			err := b.flushAnswer(ctx, u)
			if isUnavailable(err) {
				down.Store(true)
				return err
			}
			if err != nil {
				u.failedAt = b.clock.Now().UnixNano()
				b.Config().logger().LogAttrs(ctx, slog.LevelError, "a refreshed token cannot be saved; its connection is not written to",
					slog.String("connection", u.key.String()), slog.String("error", err.Error()))
			}
			return nil
		})
	}
	return saves.Wait()
}

// Start reads the journal, in the background, and saves what it has as soon as the
// store takes it. To leave that to the next save would be too late: another replica
// would take the lease over meanwhile, and send the refresh token that the answer has
// cost. Where there is nothing in the journal the store is not opened for it.
func (b *Broker) Start() {
	b.begin(func() {
		for wait := minSaveRetry; ; wait = min(2*wait, maxSaveRetry) {
			err := b.adopt(b.life)
			if err == nil && !b.backlog.pending() || err == nil && b.flush(b.life) == nil {
				return
			}
			if b.clock.Sleep(b.life, wait) != nil {
				return
			}
		}
	})
}

func (b *Broker) flushAnswer(ctx context.Context, u *unsaved) error {
	cfg := b.Config()
	policy := record.Policy{GiveUp: cfg.refreshGiveUp(), Retention: cfg.retention()}
	if conn := cfg.Connectors[u.key.Connector]; conn != nil {
		policy.Rotation = conn.Rotation
	}
	snap, _, err := b.settle(ctx, u.key, b.saveNow, func(rec *record.Record) (record.EventType, error) {
		return u.merge(rec, policy, b.clock.Now())
	})
	if errors.Is(err, errSavedAlready) {
		snap, err = b.refresher(u.key).load(ctx)
	}
	if err != nil && !isFinal(err) {
		return err
	}
	u.snap, u.err = snap, err
	connection := slog.String("connection", u.key.String())
	if err != nil {
		cfg.logger().LogAttrs(ctx, slog.LevelWarn, "a refreshed token that had not been saved is of no use any more",
			connection, slog.String("reason", err.Error()))
		if errors.Is(err, record.ErrConnectionNotFound) {
			b.revokeLate(ctx, newRevocation(cfg, cfg.Connectors[u.key.Connector], u.key, nil, u.answer.AccessToken, u.answer.RefreshToken))
		}
	} else {
		cfg.logger().LogAttrs(ctx, slog.LevelInfo, "the store has taken a refreshed token that had not been saved", connection)
		b.destroyEarlier(ctx, u.key, snap.rev)
		if conn := cfg.Connectors[u.key.Connector]; conn != nil {
			b.emit(ctx, cfg, conn, u.event, snap.rec)
		}
	}
	if u.journaled.Load() {
		b.removeFromJournal(ctx, cfg, u)
	}
	b.backlog.remove(u)
	close(u.done)
	return nil
}
