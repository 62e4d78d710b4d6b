package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
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
	mu       sync.Mutex          // guards the two below; never held across I/O
	answers  map[string]*unsaved // by id, the lease's; nil until there is one
	slow     map[string]struct{} // ids of answers whose first save is under way still, see journalIfSlow
	flushing chan struct{}       // holds one token: who has it flushes
	adopting chan struct{}       // likewise for reading the journal
	read     atomic.Bool         // the journal was, once at least
	adopted  map[string]struct{} // ids that were read from the journal; owned by who adopts
}

// An unsaved is one answer of a backlog.
type unsaved struct {
	id        string
	key       record.Key
	bought    secret.Hash // the refresh token that the answer was bought with
	over      uint64      // the generation that it was to replace; 0: not known
	answer    record.Answer
	journaled atomic.Bool
	failedAt  int64 // when it could not be saved for its own sake, Unix nanoseconds; owned by who flushes

	done  chan struct{} // closed when the three below are set
	snap  *snapshot
	event record.EventType
	err   error
}

// unsavedJSON is an unsaved as the journal keeps it.
type unsavedJSON struct {
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
		answers: make(map[string]*unsaved), slow: make(map[string]struct{}), adopted: make(map[string]struct{}),
		flushing: make(chan struct{}, 1), adopting: make(chan struct{}, 1),
	}
	b.flushing <- struct{}{}
	b.adopting <- struct{}{}
	return b
}

func (b *backlog) add(u *unsaved) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answers[u.id] = u
	delete(b.slow, u.id)
}

func (b *backlog) remove(u *unsaved) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.answers[u.id] == u {
		delete(b.answers, u.id)
	}
	delete(b.slow, u.id)
}

// holds reports whether an answer for key waits to be saved.
func (b *backlog) holds(key record.Key) bool {
	return slices.ContainsFunc(b.list(), func(u *unsaved) bool { return u.key == key })
}

func (b *backlog) list() []*unsaved {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := make([]*unsaved, 0, len(b.answers))
	for _, u := range b.answers {
		list = append(list, u)
	}
	return list
}

// merge puts the answer into the record, exactly if that still holds the refresh
// token which the answer was bought with.
func (u *unsaved) merge(rec *record.Record, policy record.Policy, now time.Time) (record.EventType, error) {
	if rec == nil || rec.IsTombstone() {
		return "", record.ConnectionNotFound(u.key)
	}
	if u.isSavedIn(rec) {
		return "", errSavedAlready
	}
	if rec.RefreshTokenHash() != u.bought || u.isStaleFor(rec) {
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
		u.event = rec.Fail(u.answer, policy, now)
	} else {
		u.event = rec.Succeed(u.answer)
	}
	return u.event, nil
}

// errSavedAlready ends an update because the record holds the answer: an earlier save
// was done, and only its own answer was lost.
var errSavedAlready = errors.New("the record holds this answer")

func (u *unsaved) isSavedIn(rec *record.Record) bool {
	c, ans := rec.Credentials, u.answer
	if c == nil || ans.AccessToken.IsZero() && ans.RefreshToken.Hash() == u.bought {
		return false
	}
	return (ans.AccessToken.IsZero() || c.AccessToken.Equal(ans.AccessToken)) &&
		(ans.RefreshToken.IsZero() || c.RefreshToken.Equal(ans.RefreshToken))
}

// isStaleFor reports whether the record has had other credentials since, with the same
// refresh token, which the endpoint did not replace: those of a later redeem or of an
// import, or the answer's own. Of an answer with a refresh token of its own nothing is
// ever called stale: it may be the only one that works.
func (u *unsaved) isStaleFor(rec *record.Record) bool {
	if rec.Lease != nil && rec.Lease.ID == u.id {
		return false // nobody has redeemed since, whatever the clocks of others say
	}
	replaced := !u.answer.RefreshToken.IsZero() && u.answer.RefreshToken.Hash() != u.bought
	if u.over > 0 {
		return !replaced && rec.Generation > u.over
	}
	c := rec.Credentials
	return !replaced && c != nil && c.Redeemed && c.IssuedAt.After(u.answer.SentAt)
}

// isFinal reports whether err says that an answer is of no use any more. Whatever else
// went wrong, the answer is kept.
func isFinal(err error) bool {
	return errors.Is(err, errSuperseded) || errors.Is(err, record.ErrConnectionNotFound)
}

// keep adds an answer to the backlog, and to the journal if there is one.
func (b *Broker) keep(ctx context.Context, cfg *Config, u *unsaved) {
	u.done = make(chan struct{})
	b.backlog.add(u) // before it is in the journal, where others would find it
	if u.journaled.Load() {
		return
	}
	if err := b.journalAnswer(ctx, u); err != nil {
		cfg.logger().LogAttrs(ctx, slog.LevelError, "neither the store nor the journal takes a refreshed token; it is in memory only",
			slog.String("connection", u.key.String()), slog.String("error", err.Error()))
	} else {
		u.journaled.Store(true)
	}
}

// slowSave is how long a save may take before the answer is put into the journal too. A
// store that hangs is a reason for people to kill the process just then.
const slowSave = 2 * time.Second

// journalIfSlow puts an answer into the journal unless its save, which begins now, is over
// soon. The save goes on. When it is over, ended is to be called: what the store has, or
// nobody needs any more, is not left in the journal.
func (b *Broker) journalIfSlow(ctx context.Context, cfg *Config, u *unsaved) (ended func(settled bool)) {
	if b.journal == nil {
		return func(bool) {}
	}
	waiting, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if b.clock.Sleep(waiting, slowSave) != nil {
			return
		}
		b.backlog.expect(u) // else it would be read from the journal, and saved besides
		err := b.journalAnswer(context.WithoutCancel(ctx), u)
		u.journaled.Store(err == nil)
		cfg.logger().LogAttrs(ctx, slog.LevelWarn, "the store is slow to take a refreshed token",
			slog.String("connection", u.key.String()), slog.Bool("in_journal", err == nil))
	}()
	return func(settled bool) {
		stop()
		<-done
		if !settled {
			return // it goes to the backlog
		}
		if u.journaled.Load() {
			b.removeFromJournal(ctx, cfg, u)
		}
		b.backlog.remove(u)
	}
}

// expect notes an answer that is being saved, or is about to be added.
func (b *backlog) expect(u *unsaved) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.slow[u.id] = struct{}{}
}

// removeFromJournal removes an answer from the journal, even if ctx has ended just now:
// nobody in this process would look for it again.
func (b *Broker) removeFromJournal(ctx context.Context, cfg *Config, u *unsaved) {
	if err := b.journal.Remove(context.WithoutCancel(ctx), u.id); err != nil {
		// Nothing is lost: it would be merged once more, and be found saved.
		cfg.logger().LogAttrs(ctx, slog.LevelWarn, "an entry of the journal could not be removed",
			slog.String("connection", u.key.String()), slog.String("error", err.Error()))
	}
}

var errNoJournal = errors.New("there is no journal")

func (b *Broker) journalAnswer(ctx context.Context, u *unsaved) error {
	if b.journal == nil {
		return errNoJournal
	}
	data, err := json.Marshal(unsavedJSON{
		Application: u.key.Application, Consumer: u.key.Consumer, Connector: u.key.Connector.String(), Bought: u.bought,
		AccessToken: u.answer.AccessToken.Reveal(), RefreshToken: u.answer.RefreshToken.Reveal(),
		TokenType: u.answer.TokenType, Lifetime: u.answer.Lifetime, SentAt: u.answer.SentAt.UTC(), Over: u.over,
	})
	if err != nil {
		return fmt.Errorf("encoding an answer: %w", err)
	}
	return b.journal.Put(ctx, u.id, data)
}

// adopt reads the answers that an earlier process, or another one on this machine
// that is gone, could not save.
func (b *Broker) adopt(ctx context.Context) error {
	if b.journal == nil {
		return nil
	}
	select {
	case <-b.backlog.adopting:
		defer func() { b.backlog.adopting <- struct{}{} }()
	case <-ctx.Done():
		return ctx.Err()
	}
	for entry, err := range b.journal.Entries(ctx) {
		if err != nil {
			return fmt.Errorf("reading the journal: %w", err)
		}
		if _, known := b.backlog.adopted[entry.ID]; known || b.backlog.has(entry.ID) {
			continue
		}
		u, err := decodeUnsaved(entry)
		if err != nil {
			// It stays in the journal. The others are not to suffer for it.
			b.Config().logger().LogAttrs(ctx, slog.LevelError, "an entry of the journal is of no use", slog.String("error", err.Error()))
			continue
		}
		b.backlog.adopted[entry.ID] = struct{}{}
		b.backlog.add(u)
	}
	return nil
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

func decodeUnsaved(entry record.JournalEntry) (*unsaved, error) {
	var w unsavedJSON
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
	u := &unsaved{
		id: entry.ID, key: record.Key{Application: w.Application, Consumer: w.Consumer, Connector: id},
		bought: w.Bought, over: w.Over, answer: ans, done: make(chan struct{}),
	}
	u.journaled.Store(true)
	return u, nil
}
