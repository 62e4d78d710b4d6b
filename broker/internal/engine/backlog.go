package engine

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// A backlog holds the pending answers. Until they are saved, nothing else is written to
// the store.
type backlog struct {
	flushing chan struct{} // a one-slot semaphore; the holder flushes
	adopting chan struct{} // a one-slot semaphore; the holder adopts
	read     atomic.Bool   // the journal has been read at least once

	mu      sync.Mutex                // never held across I/O
	answers map[string]*pendingAnswer // guarded by mu; by id
	slow    map[string]struct{}       // guarded by mu; ids of answers whose first save takes long, see journalIfSlow

	adopted map[string]struct{} // guarded by adopting; ids that were read from the journal
}

// A pendingAnswer is a token response that the store has not taken yet.
type pendingAnswer struct {
	id        string // of the lease that the token request was sent under
	key       record.Key
	redeemed  secret.Hash // of the refresh token that was redeemed for it
	replaces  uint64      // the generation to replace; 0: unknown
	answer    record.Answer
	journaled atomic.Bool
	failedAt  int64 // guarded by backlog.flushing; the instant when saving last failed although the store answered

	done    chan struct{} // closed when outcome is set
	outcome outcome
}

// An outcome is the result of saving a pending answer.
type outcome struct {
	snap  *Snapshot
	event record.EventType
	err   error
}

func newBacklog() *backlog {
	b := &backlog{
		answers: make(map[string]*pendingAnswer), slow: make(map[string]struct{}), adopted: make(map[string]struct{}),
		flushing: make(chan struct{}, 1), adopting: make(chan struct{}, 1),
	}
	b.flushing <- struct{}{}
	b.adopting <- struct{}{}
	return b
}

func (b *backlog) add(p *pendingAnswer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answers[p.id] = p
	delete(b.slow, p.id)
}

func (b *backlog) remove(p *pendingAnswer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.answers[p.id] == p {
		delete(b.answers, p.id)
	}
	delete(b.slow, p.id)
}

// holds reports whether an answer for key waits to be saved.
func (b *backlog) holds(key record.Key) bool {
	return slices.ContainsFunc(b.list(), func(p *pendingAnswer) bool { return p.key == key })
}

func (b *backlog) list() []*pendingAnswer {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := make([]*pendingAnswer, 0, len(b.answers))
	for _, p := range b.answers {
		list = append(list, p)
	}
	return list
}

// merge puts the answer into the record, provided that the record still holds the refresh
// token that was redeemed for it.
func (p *pendingAnswer) merge(rec *record.Record, policy record.Policy, now time.Time) (record.EventType, error) {
	if rec == nil || rec.IsTombstone() {
		return "", record.ConnectionNotFound(p.key)
	}
	if p.isSavedIn(rec) {
		return "", errSavedAlready
	}
	if rec.RefreshTokenHash() != p.redeemed || p.isStaleFor(rec) {
		return "", errSuperseded
	}
	// Without a refresh token only the lease tells whether the record is still the one that
	// the token was fetched for. Dropping the answer costs nothing: it can be fetched again.
	if p.isFetched() && (rec.Lease == nil || rec.Lease.ID != p.id) {
		return "", errSuperseded
	}
	if p.answer.AccessToken.IsZero() {
		// A new refresh token came alone; the next attempt sends it.
		rec.Rotate(p.answer)
		rec.Generation++
		p.outcome.event = rec.Fail(p.answer, policy, now)
	} else {
		p.outcome.event = rec.Succeed(p.answer)
	}
	return p.outcome.event, nil
}

// errSavedAlready ends an update because the record holds the answer: an earlier save
// succeeded, but the store's reply was lost.
var errSavedAlready = errors.New("the record holds this answer")

func (p *pendingAnswer) isSavedIn(rec *record.Record) bool {
	c, ans := rec.Credentials, p.answer
	if c == nil || ans.AccessToken.IsZero() && ans.RefreshToken.Hash() == p.redeemed {
		return false
	}
	return (ans.AccessToken.IsZero() || c.AccessToken.Equal(ans.AccessToken)) &&
		(ans.RefreshToken.IsZero() || c.RefreshToken.Equal(ans.RefreshToken))
}

// isStaleFor reports whether the record has received other credentials since, with the same
// refresh token: from a later refresh, from an import, or from this very answer. An answer
// that carries a new refresh token is never stale, as that may be the only one that works.
func (p *pendingAnswer) isStaleFor(rec *record.Record) bool {
	if rec.Lease != nil && rec.Lease.ID == p.id {
		return false // the token has not been redeemed since, even if other clocks suggest it
	}
	replaced := !p.answer.RefreshToken.IsZero() && p.answer.RefreshToken.Hash() != p.redeemed
	if p.replaces > 0 {
		return !replaced && rec.Generation > p.replaces
	}
	c := rec.Credentials
	return !replaced && c != nil && c.Redeemed && c.IssuedAt.After(p.answer.SentAt)
}

// isFinal reports whether err means that an answer is useless and can be discarded. After
// any other error it is kept.
func isFinal(err error) bool {
	return errors.Is(err, errSuperseded) || errors.Is(err, record.ErrConnectionNotFound)
}

// expect notes an answer that is being saved, or is about to be added.
func (b *backlog) expect(p *pendingAnswer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.slow[p.id] = struct{}{}
}

// pending reports whether there is an answer to flush.
func (b *backlog) pending() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.answers) > 0
}

// has reports whether this process is saving the answer with that id.
func (b *backlog) has(id string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, slow := b.slow[id]
	return slow || b.answers[id] != nil
}

// noRefreshToken are the hashes in leases of requests that sent no refresh token.
var noRefreshToken = []secret.Hash{"", secret.String{}.Hash()}

// isFetched reports whether the answer was obtained without a refresh token.
func (p *pendingAnswer) isFetched() bool { return slices.Contains(noRefreshToken, p.redeemed) }
