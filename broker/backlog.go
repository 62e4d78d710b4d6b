package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
)

// A backlog is what token endpoints have answered and the store has not taken yet.
// Until it is empty nothing else is written to the store.
type backlog struct {
	mu       sync.Mutex          // guards answers; never held across I/O
	answers  map[string]*unsaved // by id, the lease's; nil until there is one
	flushing chan struct{}       // holds one token: who has it flushes
	adopting chan struct{}       // likewise for reading the journal
	read     atomic.Bool         // the journal was, once at least
	adopted  map[string]struct{} // ids that were read from the journal; owned by who adopts
}

// An unsaved is one answer of a backlog.
type unsaved struct {
	id        string
	key       Key
	bought    TokenHash // the refresh token that the answer was bought with
	answer    answer
	journaled bool

	done  chan struct{} // closed when the three below are set
	snap  *snapshot
	event EventType
	err   error
}

// unsavedJSON is an unsaved as the journal keeps it.
type unsavedJSON struct {
	Application  string        `json:"application"`
	Consumer     string        `json:"consumer"`
	Connector    string        `json:"connector"`
	Bought       TokenHash     `json:"bought"`
	AccessToken  string        `json:"access_token,omitempty"`
	RefreshToken string        `json:"refresh_token,omitempty"`
	TokenType    string        `json:"token_type,omitempty"`
	Lifetime     time.Duration `json:"lifetime,omitempty"`
	SentAt       time.Time     `json:"sent_at"`
}

func newBacklog() *backlog {
	b := &backlog{
		answers: make(map[string]*unsaved), adopted: make(map[string]struct{}),
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
}

func (b *backlog) remove(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.answers, id)
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
func (u *unsaved) merge(rec *Record, policy cyclePolicy, now time.Time) (EventType, error) {
	switch {
	case rec == nil || rec.IsTombstone():
		return "", connectionNotFound(u.key)
	case rec.refreshTokenHash() != u.bought:
		return "", errSuperseded
	case u.answer.accessToken.IsZero():
		// A new refresh token came alone: it is what the next attempt sends.
		rec.rotate(u.answer.refreshToken)
		rec.Generation++
		return rec.fail(u.answer, policy, now), nil
	default:
		return rec.succeed(u.answer), nil
	}
}

// keep adds an answer to the backlog, and to the journal if there is one.
func (b *Broker) keep(ctx context.Context, cfg *Config, u *unsaved) {
	u.done = make(chan struct{})
	if err := b.journalAnswer(ctx, u); err != nil {
		cfg.logger().LogAttrs(ctx, slog.LevelError, "neither the store nor the journal takes a refreshed token; it is in memory only",
			slog.String("connection", u.key.String()), slog.String("error", err.Error()))
	} else {
		u.journaled = true
	}
	b.backlog.add(u)
}

var errNoJournal = errors.New("there is no journal")

func (b *Broker) journalAnswer(ctx context.Context, u *unsaved) error {
	if b.journal == nil {
		return errNoJournal
	}
	data, err := json.Marshal(unsavedJSON{
		Application: u.key.Application, Consumer: u.key.Consumer, Connector: u.key.Connector.String(), Bought: u.bought,
		AccessToken: u.answer.accessToken.Reveal(), RefreshToken: u.answer.refreshToken.Reveal(),
		TokenType: u.answer.tokenType, Lifetime: u.answer.lifetime, SentAt: u.answer.sentAt.UTC(),
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
			return err
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

func (b *backlog) has(id string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.answers[id] != nil
}

func decodeUnsaved(entry JournalEntry) (*unsaved, error) {
	var w unsavedJSON
	if json.Unmarshal(entry.Data, &w) != nil {
		return nil, fmt.Errorf("journal entry %s is not readable", entry.ID) // the decoder's error could quote it
	}
	id, err := connector.ParseID(w.Connector)
	if err != nil {
		return nil, fmt.Errorf("journal entry %s: %w", entry.ID, err)
	}
	ans := answer{
		accessToken: NewSecret(w.AccessToken), refreshToken: NewSecret(w.RefreshToken),
		tokenType: w.TokenType, lifetime: w.Lifetime, sentAt: w.SentAt,
	}
	if ans.accessToken.IsZero() {
		ans.class, ans.code = ClassTransient, codeNoAccessToken
	}
	return &unsaved{
		id: entry.ID, key: Key{Application: w.Application, Consumer: w.Consumer, Connector: id},
		bought: w.Bought, answer: ans, journaled: true, done: make(chan struct{}),
	}, nil
}

// replay makes sure that the journal has been read since the broker began, and that
// nothing waits to be saved.
func (b *Broker) replay(ctx context.Context) error {
	if !b.backlog.read.Load() {
		if err := b.adopt(ctx); err != nil {
			return fmt.Errorf("%w: nothing is written before the journal was read: %w", ErrStoreUnavailable, err)
		}
		b.backlog.read.Store(true)
	}
	if !b.backlog.pending() {
		return nil
	}
	return b.flush(ctx)
}

// flush saves the whole backlog. It is not done before every answer is in the store,
// or has turned out to be worth nothing there.
func (b *Broker) flush(ctx context.Context) error {
	select {
	case <-b.backlog.flushing:
		defer func() { b.backlog.flushing <- struct{}{} }()
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrStoreUnavailable, ctx.Err())
	}
	for _, u := range b.backlog.list() {
		if err := b.flushAnswer(ctx, u); err != nil {
			return err
		}
	}
	return nil
}

// flushAdopted saves what the journal had as soon as the store takes it. To leave that to
// the next save would be too late: another replica takes the lease over meanwhile, and
// sends the refresh token that the answer has cost.
func (b *Broker) flushAdopted() {
	for wait := minSaveRetry; b.flush(b.life) != nil; wait = min(2*wait, maxSaveRetry) {
		if b.clock.Sleep(b.life, wait) != nil {
			return
		}
	}
}

func (b *Broker) flushAnswer(ctx context.Context, u *unsaved) error {
	cfg := b.Config()
	policy := cyclePolicy{giveUp: cfg.refreshGiveUp(), retention: cfg.retention()}
	if conn := cfg.Connectors[u.key.Connector]; conn != nil {
		policy.rotation = conn.Rotation
	}
	u.snap, u.event, u.err = b.settle(ctx, u.key, b.saveNow, func(rec *Record) (EventType, error) {
		return u.merge(rec, policy, b.clock.Now())
	})
	if isUnavailable(u.err) {
		return u.err
	}
	b.backlog.remove(u.id)
	attrs := []slog.Attr{slog.String("connection", u.key.String())}
	if u.err != nil {
		attrs = append(attrs, slog.String("reason", u.err.Error()))
		cfg.logger().LogAttrs(ctx, slog.LevelWarn, "a refreshed token that had not been saved is of no use any more", attrs...)
	} else {
		cfg.logger().LogAttrs(ctx, slog.LevelInfo, "the store has taken a refreshed token that had not been saved", attrs...)
		b.destroyEarlier(ctx, u.key, u.snap.rev)
		if conn := cfg.Connectors[u.key.Connector]; conn != nil {
			b.emit(ctx, cfg, conn, u.event, u.snap.rec)
		}
	}
	close(u.done)
	if u.journaled {
		if err := b.journal.Remove(ctx, u.id); err != nil {
			// Nothing is lost: it would be merged once more, and find itself superseded.
			attrs = append(attrs, slog.String("error", err.Error()))
			cfg.logger().LogAttrs(ctx, slog.LevelWarn, "an entry of the journal could not be removed", attrs...)
		}
	}
	return nil
}
