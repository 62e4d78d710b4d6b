package engine

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/internal/clock"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/storequeue"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// A Snapshot is a record as it was read or saved at some time. It is immutable, except for
// the caches below.
type Snapshot struct {
	Record    *record.Record
	hasToken  bool // and may use it: neither disabled nor deleted
	rev       record.Revision
	readAt    clock.Instant
	refreshAt time.Time     // when to refresh the token ahead of its expiry; zero: never
	expiresAt clock.Instant // the latest that the token can expire; 0: unknown

	allowed  atomic.Pointer[allowance]          // the last host check that passed; nil: none yet
	prepared atomic.Pointer[preparedCredential] // nil: not rendered yet, or too large to keep
}

// A reading is a load that several callers wait for.
type reading struct {
	ticket *storequeue.Ticket
	done   chan struct{} // closed when snap and err are set
	snap   *Snapshot
	err    error
}

// wait waits for the load.
func (rd *reading) wait(ctx context.Context) (*Snapshot, error) {
	select {
	case <-rd.done:
		return rd.snap, rd.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// While a valid token is in memory, a store that does not answer holds up no call for long.
const (
	readPatience = time.Second     // how long to wait for the store before serving that token
	readCooldown = 5 * time.Second // how long to leave the store alone after a failure
)

// standbyTTL is how long a record in standby without a valid token is used before it is read
// again: another replica imports the next token, or activates the connection.
const standbyTTL = time.Second

// Margins by which a token is refreshed ahead of its expiry.
const (
	minMargin = time.Minute
	maxMargin = 5 * time.Minute
)

// refreshMargin returns how long before its expiry a token of that lifetime is refreshed,
// without jitter: a fifth of it, between minMargin and maxMargin, but at most a third.
func refreshMargin(lifetime time.Duration) time.Duration {
	return min(min(max(lifetime/5, minMargin), maxMargin), lifetime/3)
}

// refreshAt returns when to refresh a token ahead of its expiry, by margin or, if that is
// zero, by the usual one. A token of unknown lifetime counts as one that lives as long as the
// one before it, or for [record.UnknownLifetime].
func refreshAt(c *record.Credentials, margin time.Duration) time.Time {
	expiry, issuedAt, usual := c.Expiry, c.IssuedAt, cmp.Or(c.Lifetime, record.UnknownLifetime)
	switch {
	case expiry.IsZero() && issuedAt.IsZero():
		return time.Time{}
	case expiry.IsZero():
		expiry = issuedAt.Add(usual)
	case issuedAt.IsZero():
		issuedAt = expiry.Add(-usual)
	}
	lifetime := expiry.Sub(issuedAt)
	if margin == 0 {
		margin = refreshMargin(lifetime)
	}
	return expiry.Add(-min(margin, lifetime/3))
}

func newSnapshot(rec *record.Record, rev record.Revision, readAt clock.Instant, margin time.Duration) *Snapshot {
	s := &Snapshot{Record: rec, rev: rev, readAt: readAt}
	if c := rec.Credentials; c != nil {
		s.hasToken = rec.Enabled && !rec.IsTombstone() && !c.AccessToken.IsZero()
		s.refreshAt = refreshAt(c, margin)
		if lifetime := c.Expiry.Sub(c.IssuedAt); !c.Expiry.IsZero() && !c.IssuedAt.IsZero() && lifetime > 0 {
			s.expiresAt = readAt.Add(lifetime)
		}
		if margin := c.Expiry.Sub(s.refreshAt); !s.refreshAt.IsZero() && !c.Expiry.IsZero() && margin >= 10 {
			s.refreshAt = s.refreshAt.Add(rand.N(margin / 10)) // so that replicas do not all begin at the same time
		}
	}
	return s
}

// servable reports whether the snapshot has a token that is valid by the clock.
func (s *Snapshot) servable(now clock.Moment) bool {
	return s.hasToken && !s.expired(now)
}

// expired reports whether the access token has expired by either clock.
func (s *Snapshot) expired(now clock.Moment) bool {
	return s.Record.Credentials.ExpiredAt(now.Wall) || s.expiresAt != 0 && now.Mono >= s.expiresAt
}

// wantsRefresh reports whether the token is due for a refresh, even if it is valid.
func (s *Snapshot) wantsRefresh(now clock.Moment) bool {
	c := &s.Record.Cycle
	return !s.Record.Standby && (c.Queued || c.Phase == record.PhasePending || !s.refreshAt.IsZero() && !now.Wall.Before(s.refreshAt) || s.expiresAt != 0 && now.Mono >= s.expiresAt)
}

// standbyError returns an error if the connection is in standby and its token cannot be used.
func (s *Snapshot) standbyError(now clock.Moment) error {
	if s.servable(now) && !s.Record.IsRejected() {
		return nil
	}
	return s.Record.StandbyError()
}

// Install makes the record, which was saved just now, the snapshot that calls are served
// from, unless this process has a newer one. It returns the newest.
func (r *Refresher) Install(rec *record.Record, rev record.Revision) *Snapshot {
	return r.install(rec, rev, r.engine.instant())
}

// install is [Refresher.Install] for a record that was read or saved at readAt.
func (r *Refresher) install(rec *record.Record, rev record.Revision, readAt clock.Instant) *Snapshot {
	var margin time.Duration
	if conn := r.engine.Config().Connectors[r.Key.Connector]; conn != nil {
		margin = conn.RefreshMargin
	}
	next := newSnapshot(rec, rev, readAt, margin)
	r = r.lock()
	r.sawRecord(rec)
	r.noteUse(readAt) // so that it is not evicted as unused
	r.mu.Unlock()
	for {
		cur := r.memory.snap.Load()
		if cur != nil && !rec.CreatedAt.After(cur.Record.CreatedAt) && (cur.Record.Generation > rec.Generation ||
			cur.Record.Generation == rec.Generation && (cur.rev > rev || cur.rev == rev && cur.readAt > readAt)) {
			return cur
		}
		if cur != nil && cur.Record.Generation == rec.Generation {
			next.refreshAt, next.expiresAt = cur.refreshAt, cur.expiresAt // the jitter is drawn once per token
		}
		if r.memory.snap.CompareAndSwap(cur, next) {
			return next
		}
	}
}

// forget drops the snapshot because the store has no record.
func (r *Refresher) forget() {
	if r.memory.unsaved.Load() {
		return
	}
	r.memory.snap.Store(nil)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.memory.exists = false
}

// Read loads the record. Concurrent callers share one load, which goes on if one of them
// stops waiting. Errors: [record.ErrConnectionNotFound], [record.ErrStoreUnavailable],
// [record.ErrShuttingDown], a [*record.TokenError] if the store was rolled back, ctx's.
func (r *Refresher) Read(ctx context.Context) (*Snapshot, error) {
	rd := r.startReading(ctx)
	defer rd.ticket.Wait()()
	snap, err := rd.wait(ctx)
	if errors.Is(err, storequeue.ErrAbandoned) {
		return r.Read(ctx) // its callers had left just before
	}
	return snap, err
}

// startReading begins a load of the record, unless one is in progress, and returns it.
func (r *Refresher) startReading(ctx context.Context) *reading {
	r = r.lock()
	defer r.mu.Unlock()
	rd := r.memory.reading
	if rd == nil {
		rd = &reading{done: make(chan struct{}), ticket: storequeue.NewTicket(storequeue.Read, storequeue.Idle, time.Time{})}
		if r.engine.lifecycle.begin(func() { r.runReading(context.WithoutCancel(ctx), rd) }) {
			r.memory.reading = rd
		} else {
			rd.err = record.ErrShuttingDown
			close(rd.done)
		}
	}
	return rd
}

// inReading returns the load in progress, or nil.
func (r *Refresher) inReading() *reading {
	r = r.lock()
	defer r.mu.Unlock()
	return r.memory.reading
}

func (r *Refresher) runReading(ctx context.Context, rd *reading) {
	ctx, cancel := context.WithTimeout(storequeue.WithTicket(ctx, rd.ticket), openTimeout)
	defer cancel()
	defer context.AfterFunc(r.engine.lifecycle.ctx, cancel)() // it may wait for long to begin
	rd.snap, rd.err = r.load(ctx)
	r.mu.Lock()
	r.memory.reading = nil
	if r.memory.highest == (watermark{}) {
		r.discard() // callers can make up connections
	}
	r.mu.Unlock()
	close(rd.done)
}

// load reads the record and installs it.
func (r *Refresher) load(ctx context.Context) (*Snapshot, error) {
	e := r.engine
	begun := e.instant()
	rec, rev, err := e.Load(ctx, r.Key)
	switch {
	case errors.Is(err, record.ErrNotFound):
		r.forget()
		return nil, record.ConnectionNotFound(r.Key)
	case err != nil:
		r.memory.readFailed.Store(int64(e.instant()))
		return nil, err
	case rec.IsTombstone():
		r.install(rec, rev, begun)
		return nil, record.ConnectionNotFound(r.Key)
	}
	if r.isRolledBack(rec) {
		return r.reportRollback(ctx, rec, begun)
	}
	r.memory.loaded.Store(int64(e.instant())) // begun was before the wait for the store
	return r.install(rec, rev, begun), nil
}

// reportRollback handles a record that is older than the newest version that this process
// has seen. Its refresh token may be spent, so it is not used. If the newer version is still
// in memory, that is served.
func (r *Refresher) reportRollback(ctx context.Context, rec *record.Record, readAt clock.Instant) (*Snapshot, error) {
	e := r.engine
	cur := r.memory.snap.Load()
	known := cur != nil && cur.Record.Generation > rec.Generation
	if known && (r.memory.unsaved.Load() || cur.readAt >= readAt) {
		return cur, nil // no rollback: this process has saved a newer version since the read
	}
	r.mu.Lock()
	reported := r.memory.stale == rec.Generation
	r.memory.stale = rec.Generation
	r.mu.Unlock()
	if !reported {
		e.Config().Log().LogAttrs(ctx, slog.LevelError,
			"the store has older credentials than this process has seen; they are not used. Was a backup restored? Import the connection again",
			slog.String("connection", r.Key.String()), slog.Uint64("stored_generation", rec.Generation),
			slog.Uint64("connections", e.storage.rolledBack.Add(1)))
	}
	if known && cur.servable(e.now()) {
		return cur, nil
	}
	return nil, &record.TokenError{Key: r.Key, Class: record.ClassConfiguration, Code: record.CodeStaleStore}
}

// isFresh reports whether the record need not be read again, as far as its age goes.
func (s *Snapshot) isFresh(now clock.Moment, ttl time.Duration) bool {
	if s.Record.Standby && s.Record.Credentials != nil && (!s.servable(now) || s.Record.IsRejected()) {
		ttl = min(ttl, standbyTTL)
	}
	return now.Mono.Sub(s.readAt) < ttl
}

// Latest returns a snapshot that is no older than [record.Config.CacheTTL]. While the store is
// unavailable or busy, it returns one with a valid token, however old.
func (r *Refresher) Latest(ctx context.Context) (*Snapshot, error) {
	snap, _, err := r.latest(ctx)
	return snap, err
}

// latest is [Refresher.Latest]. It also returns the moment at which it returned.
func (r *Refresher) latest(ctx context.Context) (*Snapshot, clock.Moment, error) {
	e := r.engine
	now := e.now()
	r.noteUse(now.Mono)
	snap := r.memory.snap.Load()
	if snap != nil && snap.isFresh(now, e.Config().CacheFor()) {
		if snap.Record.IsTombstone() {
			return nil, now, record.ConnectionNotFound(r.Key)
		}
		return snap, now, nil
	}
	snap, err := r.renewed(ctx, snap, now)
	return snap, e.now(), err
}

// renewed is [Refresher.Latest] if snap, the snapshot in memory, is too old or nil.
func (r *Refresher) renewed(ctx context.Context, snap *Snapshot, now clock.Moment) (*Snapshot, error) {
	e := r.engine
	if snap == nil || !snap.servable(now) {
		if snap != nil && snap.Record.Enabled && !snap.Record.IsParked() && r.waitLeft(snap.Record, now) == 0 && r.inProgress() != nil {
			return snap, nil // the refresh in progress reads the record
		}
		return r.Read(ctx)
	}
	if now.Mono.IsWithin(readCooldown, r.memory.readFailed.Load()) {
		return snap, nil
	}
	rd := r.startReading(ctx)
	rd.ticket.Keep()
	if s := e.storage.opened.Load(); s != nil && s.IsBusy() {
		return snap, nil
	}
	waiting, cancel := context.WithTimeout(ctx, readPatience)
	defer cancel()
	fresh, err := rd.wait(waiting)
	if err == nil {
		return fresh, nil
	}
	if isUnavailable(err) || waiting.Err() != nil && ctx.Err() == nil {
		r.memory.readFailed.Store(int64(now.Mono))
		return snap, nil
	}
	return nil, err
}
