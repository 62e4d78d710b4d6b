package broker

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// A backlog is what token endpoints have answered and the store has not taken yet.
// Until it is empty nothing else is written to the store.
type backlog struct {
	mu       sync.Mutex                // guards the two below; never held across I/O
	answers  map[string]*pendingAnswer // by id, the lease's; nil until there is one
	slow     map[string]struct{}       // ids of answers whose first save is under way still, see journalIfSlow
	flushing chan struct{}             // holds one token: who has it flushes
	adopting chan struct{}             // likewise for reading the journal
	read     atomic.Bool               // the journal was, once at least
	adopted  map[string]struct{}       // ids that were read from the journal; owned by who adopts
}

// A pendingAnswer is a token response that the store has not taken yet.
type pendingAnswer struct {
	id        string
	key       record.Key
	redeemed  secret.Hash // the refresh token that the answer was bought with
	replaces  uint64      // the generation that it was to replace; 0: not known
	answer    record.Answer
	journaled atomic.Bool
	failedAt  int64 // when it could not be saved for its own sake, Unix nanoseconds; owned by who flushes

	done    chan struct{} // closed when outcome is set
	outcome outcome
}

// An outcome is what became of saving a pending answer.
type outcome struct {
	snap  *snapshot
	event record.EventType
	err   error
}

// pendingAnswerJSON is a pending answer as the journal keeps it.
type pendingAnswerJSON struct {
	Application  string        `json:"application"`
	Consumer     string        `json:"consumer"`
	Connector    string        `json:"connector"`
	Bought       secret.Hash   `json:"bought"`
	AccessToken  string        `json:"access_token,omitempty"`
	RefreshToken string        `json:"refresh_token,omitempty"`
	TokenType    string        `json:"token_type,omitempty"`
	Lifetime     time.Duration `json:"lifetime,omitempty"`
	SentAt       time.Time     `json:"sent_at"`
	Over         uint64        `json:"over,omitempty"`
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

func (b *backlog) add(u *pendingAnswer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answers[u.id] = u
	delete(b.slow, u.id)
}

func (b *backlog) remove(u *pendingAnswer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.answers[u.id] == u {
		delete(b.answers, u.id)
	}
	delete(b.slow, u.id)
}

// holds reports whether an answer for key waits to be saved.
func (b *backlog) holds(key record.Key) bool {
	return slices.ContainsFunc(b.list(), func(u *pendingAnswer) bool { return u.key == key })
}

func (b *backlog) list() []*pendingAnswer {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := make([]*pendingAnswer, 0, len(b.answers))
	for _, u := range b.answers {
		list = append(list, u)
	}
	return list
}

// merge puts the answer into the record, exactly if that still holds the refresh
// token which the answer was bought with.
func (u *pendingAnswer) merge(rec *record.Record, policy record.Policy, now time.Time) (record.EventType, error) {
	if rec == nil || rec.IsTombstone() {
		return "", record.ConnectionNotFound(u.key)
	}
	if u.isSavedIn(rec) {
		return "", errSavedAlready
	}
	if rec.RefreshTokenHash() != u.redeemed || u.isStaleFor(rec) {
		return "", errSuperseded
	}
	// A token that was fetched can be fetched again; that the record is the same it was
	// fetched for, only the lease tells.
	if u.isFetched() && (rec.Lease == nil || rec.Lease.ID != u.id) {
		return "", errSuperseded
	}
	if u.answer.AccessToken.IsZero() {
		// A new refresh token came alone: it is what the next attempt sends.
		rec.Rotate(u.answer.RefreshToken)
		rec.Generation++
		u.outcome.event = rec.Fail(u.answer, policy, now)
	} else {
		u.outcome.event = rec.Succeed(u.answer)
	}
	return u.outcome.event, nil
}

// errSavedAlready ends an update because the record holds the answer: an earlier save
// was done, and only its own answer was lost.
var errSavedAlready = errors.New("the record holds this answer")

func (u *pendingAnswer) isSavedIn(rec *record.Record) bool {
	c, ans := rec.Credentials, u.answer
	if c == nil || ans.AccessToken.IsZero() && ans.RefreshToken.Hash() == u.redeemed {
		return false
	}
	return (ans.AccessToken.IsZero() || c.AccessToken.Equal(ans.AccessToken)) &&
		(ans.RefreshToken.IsZero() || c.RefreshToken.Equal(ans.RefreshToken))
}

// isStaleFor reports whether the record has had other credentials since, with the same
// refresh token, which the endpoint did not replace: those of a later redeem or of an
// import, or the answer's own. Of an answer with a refresh token of its own nothing is
// ever called stale: it may be the only one that works.
func (u *pendingAnswer) isStaleFor(rec *record.Record) bool {
	if rec.Lease != nil && rec.Lease.ID == u.id {
		return false // nobody has redeemed since, whatever the clocks of others say
	}
	replaced := !u.answer.RefreshToken.IsZero() && u.answer.RefreshToken.Hash() != u.redeemed
	if u.replaces > 0 {
		return !replaced && rec.Generation > u.replaces
	}
	c := rec.Credentials
	return !replaced && c != nil && c.Redeemed && c.IssuedAt.After(u.answer.SentAt)
}

// isFinal reports whether err says that an answer is of no use any more. Whatever else
// went wrong, the answer is kept.
func isFinal(err error) bool {
	return errors.Is(err, errSuperseded) || errors.Is(err, record.ErrConnectionNotFound)
}

// expect notes an answer that is being saved, or is about to be added.
func (b *backlog) expect(u *pendingAnswer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.slow[u.id] = struct{}{}
}

// pending reports whether there is anything to flush.
func (b *backlog) pending() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.answers) > 0
}

// has reports whether this process has an answer in its hands.
func (b *backlog) has(id string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, slow := b.slow[id]
	return slow || b.answers[id] != nil
}

func decodePendingAnswer(entry record.JournalEntry) (*pendingAnswer, error) {
	var w pendingAnswerJSON
	if json.Unmarshal(entry.Data, &w) != nil {
		return nil, fmt.Errorf("journal entry %s is not readable", entry.ID) // the decoder's error could quote it
	}
	id, err := connector.ParseID(w.Connector)
	if err != nil {
		return nil, fmt.Errorf("journal entry %s: %w", entry.ID, err)
	}
	ans := record.Answer{
		AccessToken: secret.New(w.AccessToken), RefreshToken: secret.New(w.RefreshToken),
		TokenType: w.TokenType, Lifetime: w.Lifetime, SentAt: w.SentAt,
	}
	if ans.AccessToken.IsZero() {
		ans.Class, ans.Code = record.ClassTransient, record.CodeNoAccessToken
	}
	u := &pendingAnswer{
		id: entry.ID, key: record.Key{Application: w.Application, Consumer: w.Consumer, Connector: id},
		redeemed: w.Bought, replaces: w.Over, answer: ans, done: make(chan struct{}),
	}
	u.journaled.Store(true)
	return u, nil
}

// noRefreshToken are the hashes that a lease has of none.
var noRefreshToken = []secret.Hash{"", secret.String{}.Hash()}

// isFetched reports whether the answer was had without a refresh token.
func (u *pendingAnswer) isFetched() bool { return slices.Contains(noRefreshToken, u.redeemed) }
