// Package breaker has circuit breakers for token endpoints. An endpoint that refuses the OAuth
// client, or several connections in a row, is spared a request for each of the others. A breaker
// holds requests back and lets through one at a time, that of the connection which is likeliest
// to be accepted. A refusal of one connection never keeps another from being refreshed.
package breaker

import (
	"context"
	"sync"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/internal/clock"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// A Runner does the work of a [Set] in the background.
type Runner interface {
	// Run runs work in a goroutine until its ctx ends. It reports false if no work begins any
	// longer.
	Run(work func(ctx context.Context)) bool
	// StartRefresh begins a refresh of a connection at once, unless one is in progress.
	StartRefresh(key record.Key)
	// QueueRefresh begins one when the budget of the token endpoint allows it.
	QueueRefresh(key record.Key)
}

// A Set holds the breakers of connectors, of tenants' endpoints and of connections that have
// their own client. A connection behind an open breaker is not at fault and keeps its
// credentials. It waits for its turn, and is started then even if no call asks for its token.
type Set struct {
	clock  clock.Clock
	runner Runner

	mu       sync.Mutex
	breakers map[subject]*breaker   // guarded by mu
	turns    map[record.Key]subject // guarded by mu; where a connection has the turn
}

// NewSet returns a set without breakers.
func NewSet(clk clock.Clock, runner Runner) *Set {
	return &Set{clock: clk, runner: runner, breakers: make(map[subject]*breaker), turns: make(map[record.Key]subject)}
}

// now is called before a lock is taken.
func (s *Set) now() clock.Moment { return clock.MomentOf(s.clock) }

// ClientRefused holds requests back because the token endpoint has refused the record's client.
// It reports whether that begins a pause, and whether the pause covers more than the one
// connection.
func (s *Set) ClientRefused(conn *record.Connector, rec *record.Record, ans record.Answer) (begun, shared bool) {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	subj := subjectOf(conn, rec)
	b := s.findOrAdd(conn, subj, rec, now.Mono)
	begun = b.streak.all == 0
	b.streak.all++
	if c := rec.Credentials; c != nil && c.Redeemed {
		b.streak.proven++
	}
	b.noteRefused(rec.Key, ans, now.Mono)
	w := b.newWaiter(rec, now)
	w.refused, w.failedAt = true, now.Wall
	b.waiting.remove(rec.Key) // what an operator asked for is done
	b.waiting.put(w)
	s.arrange(subj, b, now.Mono)
	return begun, subj.isShared()
}

// Refused counts a connection that was refused for what may be its own fault. It reports
// whether requests were held back before, and whether they are now.
func (s *Set) Refused(conn *record.Connector, rec *record.Record, ans record.Answer) (before, after bool) {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.findOrAdd(conn, subjectOf(conn, rec), rec, now.Mono)
	before = b.isOpen()
	b.noteRefused(rec.Key, ans, now.Mono)
	return before, b.isOpen()
}

// Accepted closes the breaker of the record's client, which the token endpoint has accepted.
func (s *Set) Accepted(conn *record.Connector, rec *record.Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.breakers) > 0 {
		s.remove(subjectOf(conn, rec))
	}
}

// Reconfigured closes the breakers of clients that have other settings now, and forgets those
// of connectors that are gone.
func (s *Set) Reconfigured(cfg *record.Config) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for subj := range s.breakers {
		switch conn := cfg.Connectors[subj.connector]; {
		case conn == nil:
			s.forget(subj)
		case subj.isShared(): // the settings of a connection's own client are in the record
			s.find(conn, subj, nil)
		}
	}
}

// find returns the breaker of a subject, nil if it has none. It removes one whose client has
// other settings now. rec may be nil if the subject is shared. The caller holds mu.
func (s *Set) find(conn *record.Connector, subj subject, rec *record.Record) *breaker {
	b := s.breakers[subj]
	if b != nil && b.client != clientSettingsOf(conn, subj, rec) {
		s.remove(subj)
		return nil
	}
	return b
}

// findOrAdd is find for a refusal that is about to be counted. The caller holds mu.
func (s *Set) findOrAdd(conn *record.Connector, subj subject, rec *record.Record, now clock.Instant) *breaker {
	b := s.find(conn, subj, rec)
	if b == nil {
		s.prune(now)
		b = &breaker{client: clientSettingsOf(conn, subj, rec)}
		s.breakers[subj] = b
	}
	return b
}

// remove removes a breaker and starts the connections that it held back. The caller holds mu.
func (s *Set) remove(subj subject) {
	if b := s.forget(subj); b != nil {
		s.resume(b)
	}
}

// forget removes a breaker and returns it, nil if there is none. The caller holds mu.
func (s *Set) forget(subj subject) *breaker {
	b := s.breakers[subj]
	if b == nil {
		return nil
	}
	delete(s.breakers, subj)
	b.alarm.Stop()
	if s.turns[b.turn.key] == subj {
		delete(s.turns, b.turn.key)
	}
	return b
}

// releasePace is the time between two connections that are started when a breaker has closed.
const releasePace = 50 * time.Millisecond

// resume starts the connections that wait at the breaker, without waiting for them.
func (s *Set) resume(b *breaker) {
	if b.waiting.len() == 0 {
		return
	}
	s.runner.Run(func(ctx context.Context) {
		for _, key := range b.waiting.keys() { // the breaker was removed, so it does not change
			s.runner.QueueRefresh(key)
			if s.clock.Sleep(ctx, releasePace) != nil {
				return
			}
		}
	})
}

// maxBreakers is how many breakers are kept before stale ones of single connections and
// tenants are pruned: their connections may be gone.
const maxBreakers = 1024

// prune removes breakers of single connections and tenants that had no request for a while.
// The caller holds mu.
func (s *Set) prune(now clock.Instant) {
	if len(s.breakers) < maxBreakers {
		return
	}
	for subj, b := range s.breakers {
		narrow := !subj.isShared() || subj.endpoint != ""
		if narrow && b.waiting.len() == 0 && !b.isTaken(now) && now.Sub(b.last.at) > 2*ProbeInterval {
			s.remove(subj)
		}
	}
}

// Locker returns the set's mutex, for a test that holds every lock that a refresh takes.
func (s *Set) Locker() sync.Locker { return &s.mu }
