package breaker

import (
	"github.com/tokenbroker/caddy-token-broker/broker/internal/clock"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// Which connection's request a token endpoint gets while a breaker is open does not depend on
// the order in which calls arrive. Connections that are due wait, and the first by
// waiter.compare is started when its time comes.

// Hold returns an error if the record's connection has to wait before its token request, which
// starts when its turn comes. urgent says that an operator asks, who may have corrected what
// was wrong.
func (s *Set) Hold(conn *record.Connector, rec *record.Record, urgent bool) error {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	subj, b := s.openFor(conn, rec)
	if b == nil || b.turn.key == rec.Key {
		return nil
	}
	if err := s.wait(subj, b, rec, now, urgent); err != nil {
		return err
	}
	s.arrange(subj, b, now.Mono)
	return nil
}

// TakeTurn is [Set.Hold] for a caller that is about to send a request.
func (s *Set) TakeTurn(conn *record.Connector, rec *record.Record) error {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	subj, b := s.openFor(conn, rec)
	if b == nil {
		return nil
	}
	mine := b.turn.key == rec.Key
	if !mine {
		if err := s.wait(subj, b, rec, now, false); err != nil {
			return err
		}
	}
	if !mine || !b.turn.used {
		s.giveTurn(subj, b, rec.Key, now.Mono)
		b.turn.used, b.last = true, lastRequest{now.Mono, rec.Key}
	}
	return nil
}

// Check returns the error of a connection whose requests are held back. The connection does
// not wait because of it.
func (s *Set) Check(conn *record.Connector, rec *record.Record) error {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, b := s.openFor(conn, rec); b != nil {
		return b.heldError(rec.Key, now)
	}
	return nil
}

// openFor returns the open breaker of the record's client, nil if there is none. The caller
// holds mu.
func (s *Set) openFor(conn *record.Connector, rec *record.Record) (subject, *breaker) {
	if len(s.breakers) == 0 {
		return subject{}, nil
	}
	subj := subjectOf(conn, rec)
	if b := s.find(conn, subj, rec); b != nil && b.isOpen() {
		return subj, b
	}
	return subj, nil
}

// wait makes the record's connection wait, and returns an error unless it goes next and its
// time has come. The caller holds mu.
func (s *Set) wait(subj subject, b *breaker, rec *record.Record, now clock.Moment, urgent bool) error {
	w := b.newWaiter(rec, now)
	w.urgent = urgent
	b.waiting.put(w)
	if b.turn.used {
		return b.heldError(rec.Key, now) // the end of the turn decides which connection goes next
	}
	if at, isSet := b.alarm.At(); isSet && now.Mono < at && at <= b.last.at.Add(b.spacing(w)) {
		return b.heldError(rec.Key, now) // the alarm decides which connection goes next
	}
	if next, at := b.next(); b.isTaken(now.Mono) || next.key != rec.Key || now.Mono < at {
		s.arrange(subj, b, now.Mono)
		return b.heldError(rec.Key, now)
	}
	return nil
}

// giveTurn lets a connection send the next request. The caller holds mu.
func (s *Set) giveTurn(subj subject, b *breaker, key record.Key, now clock.Instant) {
	delete(s.turns, b.turn.key)
	b.waiting.remove(key)
	b.turn = turn{key: key, since: now, before: b.last.at}
	s.turns[key] = subj
}

// EndTurn ends the turn of a connection, if it has one, whose refresh has ended with or without
// a request.
func (s *Set) EndTurn(key record.Key) {
	now := clock.InstantOf(s.clock)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endTurn(key, now)
}

// CancelTurn is [Set.EndTurn] for a connection that has sent no request in its turn.
func (s *Set) CancelTurn(key record.Key) {
	now := clock.InstantOf(s.clock)
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.breakers[s.turns[key]]; b != nil && b.turn.key == key && b.turn.used {
		b.last.at = b.turn.before
	}
	s.endTurn(key, now)
}

// endTurn is [Set.EndTurn]. The caller holds mu.
func (s *Set) endTurn(key record.Key, now clock.Instant) {
	subj, ok := s.turns[key]
	if !ok {
		return
	}
	delete(s.turns, key)
	if b := s.breakers[subj]; b != nil && b.turn.key == key {
		b.turn = turn{}
		s.arrange(subj, b, now)
	}
}

// arrange sets the alarm that starts the next connection. The caller holds mu.
func (s *Set) arrange(subj subject, b *breaker, now clock.Instant) {
	if b.turn.used {
		return // the end of the turn arranges the next one
	}
	next, at := b.next()
	if next == nil {
		return
	}
	if b.isTaken(now) {
		at = b.turn.since.Add(turnTimeout)
	}
	b.alarm.SetAhead(s.clock, s.runner.Run, &s.mu, now, at, func() { s.startNext(subj, b) })
}

// startNext starts the refresh of the next connection.
func (s *Set) startNext(subj subject, b *breaker) {
	if key, ok := s.passTurn(subj, b); ok {
		s.runner.StartRefresh(key)
	}
}

// passTurn gives the turn to the next connection, if its time has come.
func (s *Set) passTurn(subj subject, b *breaker) (record.Key, bool) {
	now := clock.InstantOf(s.clock)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.breakers[subj] != b {
		return record.Key{}, false
	}
	next, at := b.next()
	if next == nil || b.isTaken(now) || now < at {
		s.arrange(subj, b, now)
		return record.Key{}, false
	}
	s.giveTurn(subj, b, next.key, now)
	s.arrange(subj, b, now) // the connection may not use its turn
	return next.key, true
}
