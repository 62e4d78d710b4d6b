package engine

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/tokenbroker/caddy-token-broker/broker/internal/clock"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/storequeue"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// leaseSlack is the part of a lease that is reserved for everything but the token request.
const leaseSlack = 5 * time.Second

// justRead is how long a record that was read need not be read again for a refresh.
const justRead = time.Second

// leasePoll is how often a process checks whether another one has released its lease.
const leasePoll = 500 * time.Millisecond

// leaseDuration is how long others wait for the holder of a lease. The holder may send
// within the first timeout, and the request may take another one.
func leaseDuration(timeout time.Duration) time.Duration { return 2*timeout + leaseSlack }

// A heldLease is a lease that this process has saved, with the record that contains it. If
// lease is nil there is nothing to redeem, and callers get snap.
type heldLease struct {
	lease    *record.Lease
	rec      *record.Record // as saved, with the lease
	rev      record.Revision
	snap     *Snapshot
	begun    clock.Instant // before the lease was saved: others cannot have seen it earlier
	takeover bool          // the lease was taken over from another process, with an unknown outcome
}

// A leaseObserver times another process's lease on this process's clock, since the clocks
// of two machines may differ.
type leaseObserver struct{ id clock.Watch[string] }

// overdue reports whether lease has been observed for all of its duration, without a failed
// read in between.
func (o *leaseObserver) overdue(lease *record.Lease, now clock.Instant) bool {
	return o.id.See(lease.ID, now) >= lease.Duration
}

// acquire obtains the right to redeem the stored refresh token, if a refresh is due. Without
// the lease nothing is sent: acquire waits and reads the record again.
func (a *attempt) acquire(ctx context.Context) (*heldLease, error) {
	e := a.refresher.engine
	// Waiting ends when the broker closes; a request that was sent is completed.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(e.lifecycle.ctx, cancel)()

	var observed leaseObserver
	for {
		begun, rec, rev, err := a.read(ctx)
		if err != nil {
			e.refusals.breakers.CancelTurn(a.refresher.Key) // it may have one after a conflict
			return nil, err
		}
		if err := a.configure(); err != nil { // the wait for the store can be long
			return nil, err
		}
		if a.refresher.isRolledBack(rec) {
			snap, err := a.refresher.reportRollback(ctx, rec, begun)
			return &heldLease{snap: snap}, err
		}
		snap := a.refresher.install(rec, rev, begun)
		if due, err := a.due(ctx, rec, snap, e.now()); err != nil || !due {
			return &heldLease{snap: snap}, err
		}
		takeover, wait := a.contend(rec, &observed)
		if (wait || takeover) && snap.servable(e.now()) && !a.refresher.isRejected(rec.Generation) {
			return &heldLease{snap: snap}, nil // the refresh token is in use or may be spent, and the access token is valid
		}
		if wait {
			a.flight.ticket.Keep() // it must observe the lease for all of its duration, whether callers wait or not
			if err := e.clock.Sleep(ctx, leasePoll); err != nil {
				return nil, record.ErrShuttingDown
			}
			continue
		}
		if err := a.mayTry(ctx, rec); err != nil {
			return nil, err
		}
		held, err := a.takeLease(ctx, rec, rev, takeover)
		if err != nil && !errors.Is(err, record.ErrConflict) {
			e.refusals.breakers.CancelTurn(a.refresher.Key) // its request was not sent
		}
		if !errors.Is(err, record.ErrConflict) {
			return held, err
		}
	}
}

// read returns the record, and when it was read. A caller may have read it a moment ago, or
// be about to; if it has changed since, saving the lease is a conflict.
func (a *attempt) read(ctx context.Context) (begun clock.Instant, rec *record.Record, rev record.Revision, err error) {
	r := a.refresher
	if rd := r.inReading(); !a.loads && rd != nil && rd.ticket.IsAwaited() {
		_, _ = rd.wait(ctx) // which has the same errors as the load below
	}
	begun = r.engine.instant()
	if snap := r.memory.snap.Load(); !a.loads && snap != nil && begun.IsWithin(justRead, r.memory.loaded.Load()) {
		a.loads = true
		return snap.readAt, snap.Record, snap.rev, nil
	}
	a.loads = true
	rec, rev, err = r.engine.Load(ctx, r.Key)
	if errors.Is(err, record.ErrNotFound) {
		r.forget()
		err = record.ConnectionNotFound(r.Key)
	}
	return begun, rec, rev, err
}

// mayTry returns an error if this attempt must not send a token request: the journal could
// not keep the answer, or it is another connection's turn.
func (a *attempt) mayTry(ctx context.Context, rec *record.Record) error {
	e := a.refresher.engine
	if err := e.checkJournal(ctx); err != nil {
		a.log(ctx, slog.LevelError, "no refresh can begin: the journal is unavailable", err)
		return &record.TokenError{
			Key: a.refresher.Key, Class: record.ClassTransient, Code: record.CodeJournalUnavailable,
			RetryAt: e.clock.Now().Add(storeRetry), Err: err,
		}
	}
	return e.refusals.breakers.TakeTurn(a.conn, rec)
}

// contend decides what to do about the lease in rec, if any: wait for it, or take it over
// because it has expired.
func (a *attempt) contend(rec *record.Record, observed *leaseObserver) (takeover, wait bool) {
	switch {
	case rec.Lease == nil:
		return false, false
	case a.refresher.isUnsent(rec.Lease.ID):
		return false, false // this process wrote it and has sent nothing
	case !a.refresher.engine.IsShared():
		return true, false // only an earlier process can have written it
	default:
		overdue := observed.overdue(rec.Lease, a.refresher.engine.instant())
		return overdue, !overdue
	}
}

// takeLease saves the record with a new lease.
func (a *attempt) takeLease(ctx context.Context, rec *record.Record, rev record.Revision, takeover bool) (*heldLease, error) {
	e := a.refresher.engine
	if e.lifecycle.ctx.Err() != nil {
		return nil, record.ErrShuttingDown
	}
	timeout := a.cfg.RequestTimeout()
	next := rec.Clone()
	next.Lease = &record.Lease{ID: uuid.NewString(), Duration: leaseDuration(timeout)}
	if next.Credentials != nil {
		next.Lease.RefreshToken = next.Credentials.RefreshToken.Hash()
	}
	if takeover {
		next.Cycle.Ambiguous++
	}
	a.refresher.noteUnsent(next.Lease.ID)
	begun := e.instant()
	// A lease that is saved later is too late to send anything.
	ctx, cancel := context.WithTimeout(storequeue.With(ctx, storequeue.Resume), timeout)
	defer cancel()
	saved, err := e.save(ctx, next, rev)
	if err != nil {
		if !errors.Is(err, record.ErrConflict) {
			a.cfg.Log().LogAttrs(ctx, slog.LevelDebug, "the store did not say whether it has saved a lease; nothing is sent",
				slog.String("connection", a.refresher.Key.String()), slog.String("lease", next.Lease.ID), slog.String("error", err.Error()))
		}
		return nil, err
	}
	a.refresher.setUnsent(next.Lease.ID)
	a.logLease(ctx, next.Lease, rec.Lease, takeover)
	held := &heldLease{lease: next.Lease, rec: next, rev: saved, takeover: takeover, begun: begun}
	held.snap = a.refresher.install(next, saved, begun)
	return held, nil
}

// logLease logs that a lease was taken, and from which lease if it was taken over.
func (a *attempt) logLease(ctx context.Context, lease, before *record.Lease, takeover bool) {
	level, msg := slog.LevelDebug, "lease taken"
	attrs := []slog.Attr{slog.String("connection", a.refresher.Key.String()), slog.String("lease", lease.ID)}
	if takeover {
		level = slog.LevelWarn
		msg = "the lease of a process that did not give it back was taken over; the refresh token may have been spent"
		attrs = append(attrs, slog.String("from", before.ID))
	}
	a.cfg.Log().LogAttrs(ctx, level, msg, attrs...)
}

// isLate reports whether too little of the lease is left for a request that takes all of its
// timeout: another process might take the lease over before the answer is saved.
func (h *heldLease) isLate(now clock.Instant, timeout time.Duration) bool {
	return h.lease.Duration-now.Sub(h.begun) < timeout+leaseSlack
}

// giveBack removes a lease with which nothing was sent. If that fails this process still
// knows the lease as unsent, and can use it.
func (a *attempt) giveBack(ctx context.Context, held *heldLease) {
	e := a.refresher.engine
	rec, rev, err := e.updateSeen(ctx, a.refresher.Key, held.rec, held.rev, e.save, func(rec *record.Record) (*record.Record, error) {
		if rec == nil || !rec.Holds(held.lease) {
			return nil, errSuperseded
		}
		rec.Lease = nil
		return rec, nil
	})
	if err == nil {
		a.refresher.Install(rec, rev)
	}
}

// maxUnsent is how many leases are remembered that may have been saved but were not used.
const maxUnsent = 32

// noteUnsent remembers a lease that is about to be saved. If the save fails without saying
// whether the store has the lease, nothing was sent with it.
func (r *Refresher) noteUnsent(leaseID string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	// While a store is read-only, every attempt adds a lease.
	r.attempts.unsent = append(r.attempts.unsent[max(0, len(r.attempts.unsent)-maxUnsent+1):], leaseID)
}

// setUnsent replaces the remembered leases: by the one that the record holds, if nothing was
// sent with it.
func (r *Refresher) setUnsent(leaseID ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.attempts.unsent = leaseID
}

// isUnsent reports whether a lease is this process's, and nothing was sent with it.
func (r *Refresher) isUnsent(leaseID string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Contains(r.attempts.unsent, leaseID)
}
