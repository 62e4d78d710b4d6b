package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tokenbroker/caddy-token-broker/broker/internal/revocation"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// replay makes sure that the journal has been read once and that the backlog is saved. Every
// save begins with it.
func (e *Engine) replay(ctx context.Context) error {
	if !e.backlog.read.Load() {
		err := e.adoptJournal(ctx)
		if ctx.Err() == nil {
			e.storage.journalOutage.Note(ctx, err)
		}
		if err != nil {
			return fmt.Errorf("%w: nothing is written until the journal has been read: %w", record.ErrStoreUnavailable, err)
		}
		e.backlog.read.Store(true)
	}
	if !e.backlog.pending() {
		return nil
	}
	return e.flush(ctx)
}

// flushAgain is how soon an answer that the store refused, while it is available, is tried
// again. Without it, every save of another record would repeat the attempt.
const flushAgain = 30 * time.Second

// maxFlushes is how many answers are saved at the same time. After an outage there can be
// many, and the leases that keep other processes from redeeming the same refresh tokens run
// out.
const maxFlushes = 16

// flush saves the backlog. It returns an error if the store is unavailable. An answer that
// cannot be saved for another reason stays, and blocks only its own connection.
func (e *Engine) flush(ctx context.Context) error {
	select {
	case <-e.backlog.flushing:
		defer func() { e.backlog.flushing <- struct{}{} }()
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", record.ErrStoreUnavailable, ctx.Err())
	}
	var down atomic.Bool
	var saves errgroup.Group
	saves.SetLimit(maxFlushes)
	for _, p := range e.backlog.list() {
		if e.instant().IsWithin(flushAgain, p.failedAt) {
			continue
		}
		saves.Go(func() error {
			if down.Load() {
				return nil // another save returns the error
			}
			err := e.flushAnswer(ctx, p)
			if isUnavailable(err) {
				down.Store(true)
				return err
			}
			if err != nil {
				p.failedAt = int64(e.instant())
				e.Config().Log().LogAttrs(ctx, slog.LevelError, "a refreshed token cannot be saved; its connection is not written to",
					slog.String("connection", p.key.String()), slog.String("error", err.Error()))
			}
			return nil
		})
	}
	return saves.Wait()
}

// Start reads the journal in the background and saves its entries as soon as the store
// takes them. Leaving that to the next save would be too late: another replica could take
// over the lease first, and redeem the refresh token that is already spent. If the journal
// is empty, Start does not open the store.
func (e *Engine) Start() {
	e.lifecycle.begin(func() {
		for wait := minSaveRetry; ; wait = min(2*wait, maxSaveRetry) {
			err := e.adoptJournal(e.lifecycle.ctx)
			if err == nil && !e.backlog.pending() || err == nil && e.flush(e.lifecycle.ctx) == nil {
				return
			}
			if e.clock.Sleep(e.lifecycle.ctx, wait) != nil {
				return
			}
		}
	})
}

// flushAnswer saves one answer. Once its outcome is certain, it leaves the backlog and the
// journal.
func (e *Engine) flushAnswer(ctx context.Context, p *pendingAnswer) error {
	cfg := e.Config()
	policy := record.Policy{GiveUp: cfg.GiveUpAfter(), Retention: cfg.RetainFor()}
	if conn := cfg.Connectors[p.key.Connector]; conn != nil {
		policy.Rotation = conn.Rotation
	}
	snap, _, err := e.settle(ctx, p.key, nil, e.saveNow, func(rec *record.Record) (record.EventType, error) {
		return p.merge(rec, policy, e.clock.Now())
	})
	if errors.Is(err, errSavedAlready) {
		snap, err = e.Refresher(p.key).load(ctx)
	}
	if err != nil && !isFinal(err) {
		return err
	}
	p.outcome.snap, p.outcome.err = snap, err
	connection := slog.String("connection", p.key.String())
	if err != nil {
		cfg.Log().LogAttrs(ctx, slog.LevelWarn, "a refreshed token that was waiting to be saved was dropped",
			connection, slog.String("reason", err.Error()))
		if errors.Is(err, record.ErrConnectionNotFound) {
			e.revoker.RevokeLate(ctx, revocation.Grant{
				Config: cfg, Connector: cfg.Connectors[p.key.Connector], Key: p.key, AccessToken: p.answer.AccessToken, RefreshToken: p.answer.RefreshToken,
			})
		}
	} else {
		cfg.Log().LogAttrs(ctx, slog.LevelInfo, "a refreshed token that was waiting to be saved is now in the store", connection)
		e.destroyRedeemed(ctx, p.key, snap.rev)
		if conn := cfg.Connectors[p.key.Connector]; conn != nil {
			e.emit(ctx, cfg, conn, p.outcome.event, snap.Record)
		}
	}
	if p.journaled.Load() {
		e.removeFromJournal(ctx, cfg, p)
	}
	e.backlog.remove(p)
	close(p.done)
	return nil
}

// keep adds an answer to the backlog and, if there is one, to the journal.
func (e *Engine) keep(ctx context.Context, cfg *record.Config, p *pendingAnswer) {
	p.done = make(chan struct{})
	e.backlog.add(p) // before the journal, or adopt would add it a second time
	if p.journaled.Load() {
		return
	}
	if err := e.journalAnswer(ctx, p); err != nil {
		cfg.Log().LogAttrs(ctx, slog.LevelError, "neither the store nor the journal takes a refreshed token; it is in memory only",
			slog.String("connection", p.key.String()), slog.String("error", err.Error()))
	} else {
		p.journaled.Store(true)
	}
}

// slowSave is how long a save may take before the answer also goes to the journal. When a
// store hangs, operators tend to kill the process.
const slowSave = 2 * time.Second

// journalIfSlow puts an answer into the journal if its save, which begins now, takes longer
// than slowSave. Call ended after the save; settled says that the answer was saved or is
// useless, so that it is removed from the journal.
func (e *Engine) journalIfSlow(ctx context.Context, cfg *record.Config, p *pendingAnswer) (ended func(settled bool)) {
	if e.storage.journal == nil {
		return func(bool) {}
	}
	waiting, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if e.clock.Sleep(waiting, slowSave) != nil {
			return
		}
		e.backlog.expect(p) // or adopt would read it from the journal and save it as well
		err := e.journalAnswer(context.WithoutCancel(ctx), p)
		p.journaled.Store(err == nil)
		cfg.Log().LogAttrs(ctx, slog.LevelWarn, "the store is slow to take a refreshed token",
			slog.String("connection", p.key.String()), slog.Bool("in_journal", err == nil))
	}()
	return func(settled bool) {
		stop()
		<-done
		if !settled {
			return // the caller adds it to the backlog
		}
		if p.journaled.Load() {
			e.removeFromJournal(ctx, cfg, p)
		}
		e.backlog.remove(p)
	}
}
