package engine

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// leaseSlack is the time that is left for everything but the token request.
const leaseSlack = 5 * time.Second

// leasePoll is how often a process looks whether another one is done.
const leasePoll = 500 * time.Millisecond

// leaseDuration is how long others wait for the holder of a lease: it may send within
// half of that, and the request may take all of its timeout then.
func leaseDuration(timeout time.Duration) time.Duration { return 2*timeout + leaseSlack }

// A heldLease is a lease that this process has written, and what it was written over.
// Without a lease there is nothing to redeem, and snap is what to use.
type heldLease struct {
	lease    *record.Lease
	rec      *record.Record // as saved, the lease in it
	rev      record.Revision
	snap     *Snapshot
	begun    time.Time // before the lease was written: others cannot have seen it earlier
	takeover bool      // the lease of another process was taken over, whose outcome nobody knows
}

// An leaseObserver times the lease of another process on this process's own clock, since
// the wall clocks of two machines say nothing about each other.
type leaseObserver struct {
	id    string
	since time.Time
}

// overdue reports whether lease was seen, without a failed read in between, for all
// of its duration.
func (o *leaseObserver) overdue(lease *record.Lease, now time.Time) bool {
	if o.id != lease.ID {
		o.id, o.since = lease.ID, now
		return false
	}
	return now.Sub(o.since) >= lease.Duration
}

// acquire gets the right to redeem the stored refresh token, if that is due. Not to
// get it never permits a redeem: acquire waits and reads again then.
func (a *attempt) acquire(ctx context.Context) (*heldLease, error) {
	e := a.refresher.engine
	// What only waits ends with the broker; what is sent does not.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(e.lifecycle.ctx, cancel)()

	var observed leaseObserver
	for {
		begun := e.clock.Now()
		rec, rev, err := e.Load(ctx, a.refresher.Key)
		switch {
		case errors.Is(err, record.ErrNotFound):
			a.refresher.forget()
			return nil, record.ConnectionNotFound(a.refresher.Key)
		case err != nil:
			return nil, err
		}
		if a.refresher.isRolledBack(rec) {
			snap, err := a.refresher.reportRollback(ctx, rec, begun)
			return &heldLease{snap: snap}, err
		}
		snap := a.refresher.Install(rec, rev, begun)
		if due, err := a.due(ctx, rec, snap, e.clock.Now()); err != nil || !due {
			return &heldLease{snap: snap}, err
		}
		takeover, wait := a.contend(rec, &observed)
		if (wait || takeover) && snap.servable(e.clock.Now()) && !a.refresher.isRejected(rec.Generation) {
			return &heldLease{snap: snap}, nil // it is being refreshed, or may be spent, and valid meanwhile
		}
		if wait {
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
			e.refusals.breakers.CancelProbe(a.conn, rec, e.clock.Now()) // the try that was claimed was not made
		}
		if !errors.Is(err, record.ErrConflict) {
			return held, err
		}
	}
}

// mayTry reports what keeps this attempt from a token request: a journal that could not
// keep the answer, or a pause that another one probes.
func (a *attempt) mayTry(ctx context.Context, rec *record.Record) error {
	e := a.refresher.engine
	if err := e.checkJournal(ctx); err != nil {
		a.log(ctx, slog.LevelError, "no refresh is begun", err)
		return &record.TokenError{
			Key: a.refresher.Key, Class: record.ClassTransient, Code: "journal_unavailable",
			RetryAt: e.clock.Now().Add(storeRetry), Err: err,
		}
	}
	if !a.probing {
		if until := e.refusals.breakers.TryProbe(a.conn, rec, e.clock.Now()); !until.IsZero() {
			return pausedError(a.refresher.Key, until)
		}
		a.probing = true
	}
	return nil
}

// contend decides whether the lease in rec, if any, has to be waited for, or is that
// of a process which has had its time.
func (a *attempt) contend(rec *record.Record, observed *leaseObserver) (takeover, wait bool) {
	switch {
	case rec.Lease == nil:
		return false, false
	case a.refresher.isUnsent(rec.Lease.ID):
		return false, false // this process's own, and nothing was sent with it
	case !a.refresher.engine.isShared():
		return true, false // only an earlier process can have written it
	default:
		overdue := observed.overdue(rec.Lease, a.refresher.engine.clock.Now())
		return overdue, !overdue
	}
}

// takeLease writes a lease into the record.
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
	begun := e.clock.Now()
	saved, err := e.save(ctx, next, rev)
	if err != nil {
		if !errors.Is(err, record.ErrConflict) {
			a.cfg.Log().LogAttrs(ctx, slog.LevelDebug, "the store did not say whether it has a lease; nothing is sent with it",
				slog.String("connection", a.refresher.Key.String()), slog.String("lease", next.Lease.ID), slog.String("error", err.Error()))
		}
		return nil, err
	}
	a.refresher.setUnsent(next.Lease.ID)
	a.logLease(ctx, next.Lease, rec.Lease, takeover)
	held := &heldLease{lease: next.Lease, rec: next, rev: saved, takeover: takeover, begun: begun}
	held.snap = a.refresher.Install(next, saved, begun)
	return held, nil
}

// logLease tells of a lease that was taken, and whose it was if it was taken over.
func (a *attempt) logLease(ctx context.Context, lease, before *record.Lease, takeover bool) {
	level, msg := slog.LevelDebug, "lease taken"
	attrs := []slog.Attr{slog.String("connection", a.refresher.Key.String()), slog.String("lease", lease.ID)}
	if takeover {
		level = slog.LevelWarn
		msg = "the lease of a process that did not give it back was taken over; whether it spent the refresh token nobody knows"
		attrs = append(attrs, slog.String("from", before.ID))
	}
	a.cfg.Log().LogAttrs(ctx, level, msg, attrs...)
}

// isLate reports whether too little is left of the lease for a request that takes all
// of its timeout: somebody might take it over before the answer is saved.
func (h *heldLease) isLate(now time.Time, timeout time.Duration) bool {
	return h.lease.Duration-now.Sub(h.begun) < timeout+leaseSlack
}

// giveBack removes a lease that nothing was sent with. If that fails the lease stays
// known as unsent, so that this process can use it still.
func (a *attempt) giveBack(ctx context.Context, held *heldLease) {
	rec, rev, err := a.refresher.engine.Update(ctx, a.refresher.Key, func(rec *record.Record) (*record.Record, error) {
		if rec == nil || !rec.Holds(held.lease) {
			return nil, errSuperseded
		}
		rec.Lease = nil
		return rec, nil
	})
	if err == nil {
		a.refresher.Install(rec, rev, a.refresher.engine.clock.Now())
	}
}

// maxUnsent is how many leases are remembered that may have been written and were not used.
const maxUnsent = 32

// noteUnsent remembers a lease that is about to be written: whatever becomes of the
// save, nothing has been sent with it.
func (r *Refresher) noteUnsent(leaseID string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	// As long as a store is read-only there is another one with every attempt.
	r.attempts.unsent = append(r.attempts.unsent[max(0, len(r.attempts.unsent)-maxUnsent+1):], leaseID)
}

// setUnsent forgets the leases before: the record holds leaseID, or none that counts.
func (r *Refresher) setUnsent(leaseID ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.attempts.unsent = leaseID
}

func (r *Refresher) isUnsent(leaseID string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Contains(r.attempts.unsent, leaseID)
}
