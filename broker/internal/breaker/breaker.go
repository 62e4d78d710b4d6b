package breaker

import (
	"cmp"
	"slices"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/internal/clock"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/priority"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// How token requests are spaced once a token endpoint has refused the client, or several
// connections in a row.
const (
	minSpacing = 10 * time.Second // between connections that were not refused yet

	// While the client is only in doubt, between those of them whose token is valid: it must not
	// run out, and each is tried only once.
	validSpacing = time.Second / 4

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
	blame   map[string]int // refusals since then, by application
	streak  streak         // refusals of the client
	reason  reason         // of the last refusal

	last    lastRequest
	turn    turn
	waiting queue
	alarm   clock.Alarm // starts the next connection
}

// A reason is what a token endpoint said when it refused.
type reason struct{ code, detail string }

// A streak counts refusals of the client in a row. At 0 the client is only in doubt.
type streak struct {
	all    int
	proven int // those of connections that were accepted before
}

// A lastRequest is the last request that a breaker let through. Like all times of a breaker, at
// is an instant.
type lastRequest struct {
	at         clock.Instant
	connection record.Key
}

// A turn is the right of one connection to send the next request.
type turn struct {
	key    record.Key // zero: no connection has it
	since  clock.Instant
	before clock.Instant // when the last request before this turn was sent
	used   bool          // a request is in progress
}

// turnTimeout is how long a connection keeps its turn without a request.
const turnTimeout = 10 * time.Second

// A waiter is a connection that is due for a refresh and held back.
type waiter struct {
	priority.Place

	key      record.Key
	blame    int           // refusals of its application
	refused  bool          // its credentials, or its client, were refused already
	proven   bool          // the token endpoint has accepted a refresh of it before
	valid    bool          // its token is valid: it has something to lose
	urgent   bool          // an operator asked for it: the next request comes sooner
	expiry   time.Time     // by the clock of the record's writer: only the order matters
	failedAt time.Time     // likewise
	changed  time.Time     // likewise; when the record changed last, mostly by an import
	since    clock.Instant // when it began to wait
}

func (b *breaker) newWaiter(rec *record.Record, now clock.Moment) *waiter {
	w := &waiter{
		key: rec.Key, blame: b.blame[rec.Key.Application], refused: rec.WasRefused(), failedAt: rec.Cycle.FailedAt, changed: rec.UpdatedAt, since: now.Mono,
	}
	if c := rec.Credentials; c != nil {
		w.proven, w.expiry = c.Redeemed, c.Expiry
		w.valid = !c.AccessToken.IsZero() && !c.ExpiredAt(now.Wall)
	}
	return w
}

// Before implements [priority.Item].
func (w *waiter) Before(other *waiter) bool { return w.compare(other) < 0 }

// compare orders waiters, the likeliest to be accepted first. Every caller that may import can
// create connections that are refused. So a connection that was accepted before goes ahead of any
// number that never were, and those of different applications take turns.
func (w *waiter) compare(other *waiter) int {
	for _, better := range [][2]bool{
		{!w.refused, !other.refused},
		{w.proven, other.proven},
		{w.blame < other.blame, w.blame > other.blame},
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
		// A new grant is likelier to live. Not by expiry, which an import can make up, nor by the
		// beginning of the wait: that of all is new when a breaker opens again.
		return cmp.Or(other.changed.Compare(w.changed), cmp.Compare(w.since, other.since))
	}
}

// isOpen reports whether requests are held back.
func (b *breaker) isOpen() bool { return b.streak.all > 0 || len(b.refused) >= enoughRefusals }

// spacing returns how long after the last request the waiter's may follow. The surer it is
// that the client is wrong, the less often a connection is tried that was not refused yet.
func (b *breaker) spacing(w *waiter) time.Duration {
	growing := func(refusals int) time.Duration { return min(ProbeInterval, minSpacing<<min(max(refusals-2, 0), 8)) }
	switch {
	case b.streak.all == 0 && !w.refused && w.valid:
		return validSpacing
	case w.urgent, b.streak.all == 0:
		return minSpacing
	case !w.refused && w.blame == 0: // the refused connections are another application's
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
func (b *breaker) next() (*waiter, clock.Instant) {
	switch first := b.waiting.first(b.isTired); {
	case first == nil:
		return nil, 0
	case b.waiting.urgent > 0:
		return first, b.last.at.Add(minSpacing)
	default:
		return first, b.last.at.Add(b.spacing(first))
	}
}

// isTired reports whether the connection was refused with the last request. Unless an operator
// asks, it is not tried twice in a row while others wait.
func (b *breaker) isTired(w *waiter) bool {
	return w.key == b.last.connection && w.refused && !w.urgent
}

// isTaken reports whether a connection has the turn and has not lost it.
func (b *breaker) isTaken(now clock.Instant) bool {
	return b.turn.key != (record.Key{}) && (b.turn.used || now.Sub(b.turn.since) < turnTimeout)
}

// noteRefused counts a refused connection.
func (b *breaker) noteRefused(key record.Key, ans record.Answer, now clock.Instant) {
	if len(b.refused) < enoughRefusals && !slices.Contains(b.refused, key) {
		b.refused = append(b.refused, key)
	}
	b.reason, b.last = reason{ans.Code, ans.Detail}, lastRequest{now, key}
	if b.blame == nil {
		b.blame = make(map[string]int)
	}
	b.blame[key.Application]++
	b.waiting.blame(key.Application, b.blame[key.Application])
}

// heldError returns the error of a connection that is held back.
func (b *breaker) heldError(key record.Key, now clock.Moment) *record.TokenError {
	wait := time.Second
	if w := b.waiting.byKey[key]; w != nil {
		wait = max(wait, b.last.at.Add(b.spacing(w)).Sub(now.Mono))
	}
	err := &record.TokenError{
		Key: key, Class: record.ClassTransient, Code: record.CodeEndpointInDoubt, Reason: b.reason.code,
		RetryAt: now.Wall.Add(wait),
		GivenUp: true, // it is started when its turn comes
	}
	if b.streak.all > 0 {
		// What was said of the client helps with every connection of its.
		err.Class, err.Code, err.Detail = record.ClassConfiguration, record.CodeConnectorPaused, b.reason.detail
	}
	return err
}
