package breaker

import (
	"context"
	"slices"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// How token requests are spaced once a token endpoint has refused the client, or several
// connections in a row.
const (
	minSpacing = 10 * time.Second // between connections that were not refused yet

	// ProbeInterval is how long a connection waits that was refused because of the client.
	ProbeInterval = 5 * time.Minute
)

// enoughRefusals is how many connections a token endpoint must refuse in a row before the
// client is likelier at fault than their grants. A malformed refresh token or a closed account
// gets an invalid_request here and a bare 401 there, just as a wrong token_url does.
const enoughRefusals = 3

// A breaker is open while token requests of its subject are held back.
type breaker struct {
	client  clientSettings // at the time of the refusals; with others the refusals mean nothing
	refused []record.Key   // connections since the last accepted request; at most enoughRefusals
	streak  streak         // refusals of the client
	reason  string         // code of the last refusal

	last    lastRequest
	turn    turn
	waiting map[record.Key]*waiter
	timer   timer
}

// A streak counts refusals of the client in a row. At 0 the client is only in doubt.
type streak struct {
	all    int
	proven int // those of connections that were accepted before
}

// A lastRequest is the last request that a breaker let through.
type lastRequest struct {
	at         time.Time
	connection record.Key
}

// A turn is the right of one connection to send the next request.
type turn struct {
	key    record.Key // zero: no connection has it
	since  time.Time
	before time.Time // when the last request before this turn was sent
	used   bool      // a request is in progress
}

// turnTimeout is how long a connection keeps its turn without a request.
const turnTimeout = 10 * time.Second

// A timer starts the next connection.
type timer struct {
	at     time.Time
	cancel context.CancelFunc // nil if no timer runs
}

// isBefore reports whether the timer runs and is due no later than at.
func (t *timer) isBefore(at time.Time) bool { return t.cancel != nil && !at.Before(t.at) }

// stop stops the timer if it runs.
func (t *timer) stop() {
	if t.cancel != nil {
		t.cancel()
	}
}

// A waiter is a connection that is due for a refresh and held back.
type waiter struct {
	refused  bool // its credentials, or its client, were refused already
	proven   bool // the token endpoint has accepted a refresh of it before
	valid    bool // its token is valid: it has something to lose
	urgent   bool // an operator asked for it: the next request comes sooner
	expiry   time.Time
	failedAt time.Time
	since    time.Time // when it began to wait
}

func newWaiter(rec *record.Record, now time.Time) *waiter {
	w := &waiter{refused: rec.WasRefused(), failedAt: rec.Cycle.FailedAt, since: now}
	if c := rec.Credentials; c != nil {
		w.proven, w.expiry = c.Redeemed, c.Expiry
		w.valid = !c.AccessToken.IsZero() && !c.ExpiredAt(now)
	}
	return w
}

// compare orders waiters, the likeliest to be accepted first. A connection that was accepted
// before goes ahead of any number that never were: every caller that may import can create
// connections that are refused.
func (w *waiter) compare(other *waiter) int {
	for _, better := range [][2]bool{
		{!w.refused, !other.refused},
		{w.proven, other.proven},
		{w.valid, other.valid},
		{w.urgent, other.urgent},
	} {
		if better[0] != better[1] {
			if better[0] {
				return -1
			}
			return 1
		}
	}
	switch {
	case w.refused:
		return w.failedAt.Compare(other.failedAt)
	case w.valid:
		return w.expiry.Compare(other.expiry)
	default:
		return w.since.Compare(other.since) // not by expiry, which an import can make up
	}
}

// isOpen reports whether requests are held back.
func (b *breaker) isOpen() bool { return b.streak.all > 0 || len(b.refused) >= enoughRefusals }

// spacing returns how long after the last request the waiter's may follow. The surer it is
// that the client is wrong, the less often a connection is tried that was not refused yet.
func (b *breaker) spacing(w *waiter) time.Duration {
	growing := func(refusals int) time.Duration { return min(ProbeInterval, minSpacing<<min(max(refusals-2, 0), 8)) }
	switch {
	case w.urgent, b.streak.all == 0:
		return minSpacing
	case !w.refused && w.proven: // refusals of unproven connections say little about it
		return growing(b.streak.proven)
	case !w.refused && w.valid:
		return growing(b.streak.all)
	default:
		return ProbeInterval
	}
}

// next returns the connection that goes next, and when; nil if none waits.
func (b *breaker) next() (record.Key, *waiter, time.Time) {
	var first record.Key
	var best *waiter
	urgent := false
	for key, w := range b.waiting {
		urgent = urgent || w.urgent
		switch {
		case best == nil, b.isTired(first, best) && !b.isTired(key, w):
		case b.isTired(key, w) && !b.isTired(first, best):
			continue
		case w.compare(best) >= 0:
			continue
		}
		first, best = key, w
	}
	switch {
	case best == nil:
		return record.Key{}, nil, time.Time{}
	case urgent:
		return first, best, b.last.at.Add(minSpacing)
	default:
		return first, best, b.last.at.Add(b.spacing(best))
	}
}

// isTired reports whether the connection was refused with the last request. Unless an operator
// asks, it is not tried twice in a row while others wait.
func (b *breaker) isTired(key record.Key, w *waiter) bool {
	return key == b.last.connection && w.refused && !w.urgent
}

// isTaken reports whether a connection has the turn and has not lost it.
func (b *breaker) isTaken(now time.Time) bool {
	return b.turn.key != (record.Key{}) && (b.turn.used || now.Sub(b.turn.since) < turnTimeout)
}

// enlist makes a connection wait for its turn.
func (b *breaker) enlist(key record.Key, w *waiter) {
	if old := b.waiting[key]; old != nil {
		w.urgent, w.since = w.urgent || old.urgent, old.since
	}
	if b.waiting == nil {
		b.waiting = make(map[record.Key]*waiter)
	}
	b.waiting[key] = w
}

// noteRefused counts a refused connection, whatever the code.
func (b *breaker) noteRefused(key record.Key, code string, now time.Time) {
	if len(b.refused) < enoughRefusals && !slices.Contains(b.refused, key) {
		b.refused = append(b.refused, key)
	}
	b.reason, b.last = code, lastRequest{now, key}
}

// heldError returns the error of a connection that is held back.
func (b *breaker) heldError(key record.Key, now time.Time) *record.TokenError {
	err := &record.TokenError{
		Key: key, Class: record.ClassTransient, Code: record.CodeEndpointInDoubt, Reason: b.reason,
		RetryAt: now.Add(time.Second),
		GivenUp: true, // it is started when its turn comes
	}
	if b.streak.all > 0 {
		err.Class, err.Code = record.ClassConfiguration, record.CodeConnectorPaused
	}
	if w := b.waiting[key]; w != nil {
		if at := b.last.at.Add(b.spacing(w)); at.After(err.RetryAt) {
			err.RetryAt = at
		}
	}
	return err
}
