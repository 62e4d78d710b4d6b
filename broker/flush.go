package broker

import (
	"context"
	"encoding/json"
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
	b.lifecycle.begin(func() {
		for wait := minSaveRetry; ; wait = min(2*wait, maxSaveRetry) {
			err := b.adopt(b.lifecycle.ctx)
			if err == nil && !b.backlog.pending() || err == nil && b.flush(b.lifecycle.ctx) == nil {
				return
			}
			if b.clock.Sleep(b.lifecycle.ctx, wait) != nil {
				return
			}
		}
	})
}

func (b *Broker) flushAnswer(ctx context.Context, u *pendingAnswer) error {
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
	u.outcome.snap, u.outcome.err = snap, err
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
			b.emit(ctx, cfg, conn, u.outcome.event, snap.rec)
		}
	}
	if u.journaled.Load() {
		b.removeFromJournal(ctx, cfg, u)
	}
	b.backlog.remove(u)
	close(u.done)
	return nil
}

// keep adds an answer to the backlog, and to the journal if there is one.
func (b *Broker) keep(ctx context.Context, cfg *Config, u *pendingAnswer) {
	u.done = make(chan struct{})
	b.backlog.add(u) // before it is in the journal, where others would find it
	if u.journaled.Load() {
		return
	}
	if err := b.journalAnswer(ctx, u); err != nil {
		cfg.logger().LogAttrs(ctx, slog.LevelError, "neither the store nor the journal takes a refreshed token; it is in memory only",
			slog.String("connection", u.key.String()), slog.String("error", err.Error()))
	} else {
		u.journaled.Store(true)
	}
}

// slowSave is how long a save may take before the answer is put into the journal too. A
// store that hangs is a reason for people to kill the process just then.
const slowSave = 2 * time.Second

// journalIfSlow puts an answer into the journal unless its save, which begins now, is over
// soon. The save goes on. When it is over, ended is to be called: what the store has, or
// nobody needs any more, is not left in the journal.
func (b *Broker) journalIfSlow(ctx context.Context, cfg *Config, u *pendingAnswer) (ended func(settled bool)) {
	if b.storage.journal == nil {
		return func(bool) {}
	}
	waiting, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if b.clock.Sleep(waiting, slowSave) != nil {
			return
		}
		b.backlog.expect(u) // else it would be read from the journal, and saved besides
		err := b.journalAnswer(context.WithoutCancel(ctx), u)
		u.journaled.Store(err == nil)
		cfg.logger().LogAttrs(ctx, slog.LevelWarn, "the store is slow to take a refreshed token",
			slog.String("connection", u.key.String()), slog.Bool("in_journal", err == nil))
	}()
	return func(settled bool) {
		stop()
		<-done
		if !settled {
			return // it goes to the backlog
		}
		if u.journaled.Load() {
			b.removeFromJournal(ctx, cfg, u)
		}
		b.backlog.remove(u)
	}
}

// removeFromJournal removes an answer from the journal, even if ctx has ended just now:
// nobody in this process would look for it again.
func (b *Broker) removeFromJournal(ctx context.Context, cfg *Config, u *pendingAnswer) {
	if err := b.storage.journal.Remove(context.WithoutCancel(ctx), u.id); err != nil {
		// Nothing is lost: it would be merged once more, and be found saved.
		cfg.logger().LogAttrs(ctx, slog.LevelWarn, "an entry of the journal could not be removed",
			slog.String("connection", u.key.String()), slog.String("error", err.Error()))
	}
}

var errNoJournal = errors.New("there is no journal")

func (b *Broker) journalAnswer(ctx context.Context, u *pendingAnswer) error {
	if b.storage.journal == nil {
		return errNoJournal
	}
	data, err := json.Marshal(pendingAnswerJSON{
		Application: u.key.Application, Consumer: u.key.Consumer, Connector: u.key.Connector.String(), Bought: u.redeemed,
		AccessToken: u.answer.AccessToken.Reveal(), RefreshToken: u.answer.RefreshToken.Reveal(),
		TokenType: u.answer.TokenType, Lifetime: u.answer.Lifetime, SentAt: u.answer.SentAt.UTC(), Over: u.replaces,
	})
	if err != nil {
		return fmt.Errorf("encoding an answer: %w", err)
	}
	return b.storage.journal.Put(ctx, u.id, data)
}

// adopt reads the answers that an earlier process, or another one on this machine
// that is gone, could not save.
func (b *Broker) adopt(ctx context.Context) error {
	if b.storage.journal == nil {
		return nil
	}
	select {
	case <-b.backlog.adopting:
		defer func() { b.backlog.adopting <- struct{}{} }()
	case <-ctx.Done():
		return ctx.Err()
	}
	for entry, err := range b.storage.journal.Entries(ctx) {
		if err != nil {
			return fmt.Errorf("reading the journal: %w", err)
		}
		if _, known := b.backlog.adopted[entry.ID]; known || b.backlog.has(entry.ID) {
			continue
		}
		u, err := decodePendingAnswer(entry)
		if err != nil {
			// It stays in the journal. The others are not to suffer for it.
			b.Config().logger().LogAttrs(ctx, slog.LevelError, "an entry of the journal is of no use", slog.String("error", err.Error()))
			continue
		}
		b.backlog.adopted[entry.ID] = struct{}{}
		b.backlog.add(u)
	}
	return nil
}

// checkJournal returns nil if an answer could be kept that the store does not take.
func (b *Broker) checkJournal(ctx context.Context) error {
	if b.storage.journal == nil {
		return nil
	}
	if err := b.storage.journal.Check(ctx); err != nil {
		return fmt.Errorf("the journal is not writable, so no refresh is begun: %w", err)
	}
	return nil
}
