package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// pendingAnswerJSON is the form of a pending answer in the journal.
type pendingAnswerJSON struct {
	Application     string            `json:"application"`
	Consumer        string            `json:"consumer"`
	Connector       string            `json:"connector"`
	Redeemed        secret.Hash       `json:"bought"`
	AccessToken     string            `json:"access_token,omitempty"`
	RefreshToken    string            `json:"refresh_token,omitempty"`
	TokenType       string            `json:"token_type,omitempty"`
	Lifetime        time.Duration     `json:"lifetime,omitempty"`
	RefreshLifetime time.Duration     `json:"refresh_lifetime,omitempty"`
	Captured        map[string]string `json:"captured,omitempty"`
	SentAt          time.Time         `json:"sent_at"`
	Replaces        uint64            `json:"over,omitempty"`
}

func decodePendingAnswer(entry record.JournalEntry) (*pendingAnswer, error) {
	var w pendingAnswerJSON
	if json.Unmarshal(entry.Data, &w) != nil {
		return nil, fmt.Errorf("journal entry %s is not readable", entry.ID) // the decoder's error could quote a token
	}
	id, err := connector.ParseID(w.Connector)
	if err != nil {
		return nil, fmt.Errorf("journal entry %s: %w", entry.ID, err)
	}
	ans := record.Answer{
		AccessToken: secret.New(w.AccessToken), RefreshToken: secret.New(w.RefreshToken),
		TokenType: w.TokenType, Lifetime: w.Lifetime, RefreshLifetime: w.RefreshLifetime, Captured: w.Captured, SentAt: w.SentAt,
	}
	if ans.AccessToken.IsZero() {
		ans.Class, ans.Code = record.ClassTransient, record.CodeNoAccessToken
	}
	p := &pendingAnswer{
		id: entry.ID, key: record.Key{Application: w.Application, Consumer: w.Consumer, Connector: id},
		redeemed: w.Redeemed, replaces: w.Replaces, answer: ans, done: make(chan struct{}),
	}
	p.journaled.Store(true)
	return p, nil
}

// removeFromJournal removes an answer from the journal, even if ctx has ended: this process
// does not try again.
func (e *Engine) removeFromJournal(ctx context.Context, cfg *record.Config, p *pendingAnswer) {
	if err := e.storage.journal.Remove(context.WithoutCancel(ctx), p.id); err != nil {
		// Harmless: the next process merges the answer again, and finds that it is saved.
		cfg.Log().LogAttrs(ctx, slog.LevelWarn, "an entry of the journal could not be removed",
			slog.String("connection", p.key.String()), slog.String("error", err.Error()))
	}
}

var errNoJournal = errors.New("there is no journal")

func (e *Engine) journalAnswer(ctx context.Context, p *pendingAnswer) error {
	if e.storage.journal == nil {
		return errNoJournal
	}
	data, err := json.Marshal(pendingAnswerJSON{
		Application: p.key.Application, Consumer: p.key.Consumer, Connector: p.key.Connector.String(), Redeemed: p.redeemed,
		AccessToken: p.answer.AccessToken.Reveal(), RefreshToken: p.answer.RefreshToken.Reveal(),
		TokenType: p.answer.TokenType, Lifetime: p.answer.Lifetime,
		RefreshLifetime: p.answer.RefreshLifetime, Captured: p.answer.Captured, SentAt: p.answer.SentAt.UTC(), Replaces: p.replaces,
	})
	if err != nil {
		return fmt.Errorf("encoding an answer: %w", err)
	}
	return e.storage.journal.Put(ctx, p.id, data)
}

// adoptJournal adds the journal's answers to the backlog: those that a process of this machine
// could not save before it ended.
func (e *Engine) adoptJournal(ctx context.Context) error {
	if e.storage.journal == nil {
		return nil
	}
	select {
	case <-e.backlog.adopting:
		defer func() { e.backlog.adopting <- struct{}{} }()
	case <-ctx.Done():
		return ctx.Err()
	}
	for entry, err := range e.storage.journal.Entries(ctx) {
		if err != nil {
			return fmt.Errorf("reading the journal: %w", err)
		}
		if _, known := e.backlog.adopted[entry.ID]; known || e.backlog.has(entry.ID) {
			continue
		}
		p, err := decodePendingAnswer(entry)
		if err != nil {
			// The entry stays in the journal and must not hold up the others.
			e.Config().Log().LogAttrs(ctx, slog.LevelError, "an entry of the journal cannot be read", slog.String("error", err.Error()))
			continue
		}
		e.backlog.adopted[entry.ID] = struct{}{}
		e.backlog.add(p)
	}
	return nil
}

// checkJournal returns nil if the journal could keep an answer, or if there is no journal.
func (e *Engine) checkJournal(ctx context.Context) error {
	if e.storage.journal == nil {
		return nil
	}
	if err := e.storage.journal.Check(ctx); err != nil {
		return fmt.Errorf("the journal is not writable, so no refresh can begin: %w", err)
	}
	return nil
}
