package model

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// token gets a token from a broker.
func (w *world) token(ctx context.Context, p *process, key record.Key) (broker.Token, error) {
	handed := w.handing(p, key)
	tok, err := p.broker.Source(key).Token(ctx)
	handed(tok, err)
	return tok, err
}

// handing notes that a call for a token begins. The returned function checks its result.
func (w *world) handing(p *process, key record.Key) func(broker.Token, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	h, begun, floor := w.histories[key], time.Now(), p.floors[key]
	saves := h.saves
	return func(tok broker.Token, err error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if p.dead {
			return
		}
		if err != nil {
			w.checkRefusal(h, p, saves, begun, err)
			return
		}
		access := tok.AccessToken.Reveal()
		if w.provider.access[access] == nil {
			w.violate("%s hands out %q, which the provider has not issued", p.name, access)
		}
		if a := w.provider.bought[access]; a != nil && !a.durable && p.replica.unjournaledAt.Before(a.sentAt) {
			w.violate("%s hands out %s, which is in neither the store nor the journal", p.name, access)
		}
		if tok.Generation > 0 {
			if tok.Generation < floor {
				w.violate("%s hands out generation %d after %d", p.name, tok.Generation, floor)
			}
			if !w.jumps && !tok.Expiry.IsZero() && !tok.Expiry.After(begun.Add(time.Duration(p.replica.skew.Load()))) {
				w.violate("%s hands out %s, which had expired at %v", p.name, access, tok.Expiry)
			}
			p.floors[key] = max(p.floors[key], tok.Generation)
		}
		if at, ok := h.replaced[access]; ok && at.Before(begun.Add(-record.DefaultCacheTTL-time.Second)) && !p.disturbedSince(at.Add(-time.Minute)) {
			w.violate("%s hands out %s, which was replaced at %v", p.name, access, at.Sub(w.begun))
		}
	}
}

// checkRefusal checks a call that got no token: there must not be a valid one in the store.
func (w *world) checkRefusal(h *history, p *process, saves int, begun time.Time, err error) {
	if h.saves != saves || h.rec == nil || h.rec.IsTombstone() || h.rec.Credentials == nil || errors.Is(err, context.Canceled) ||
		p.disturbedSince(begun.Add(-time.Minute)) || h.savedAt.After(begun.Add(-record.DefaultCacheTTL-time.Second)) {
		return
	}
	if c := h.rec.Credentials; !w.jumps && !c.Expiry.IsZero() && !c.ExpiredAt(p.now()) && w.provider.lasts(c.AccessToken.Reveal(), time.Minute) {
		w.violate("%s hands out no token (%v), though %s is valid", p.name, err, c.AccessToken.Reveal())
	}
}

// demand asks every replica for every connection's credential until all planned retries
// and cooldowns must be over.
func (w *world) demand() {
	w.activateAll()
	for _, wait := range []time.Duration{0, time.Minute, 6 * time.Minute, 20 * time.Minute, 61 * time.Minute, 3 * time.Minute} {
		time.Sleep(wait)
		w.mu.Lock()
		for _, r := range w.replicas {
			for _, key := range w.keys {
				if p := r.current; p != nil {
					w.run(p, "downstream", 2*time.Minute, func(ctx context.Context) error { _, err := w.downstream(ctx, p, key); return err })
				}
			}
		}
		w.mu.Unlock()
	}
	time.Sleep(20 * time.Minute)
}

// verify checks what must hold after all trouble has ended.
func (w *world) verify() {
	w.mu.Lock()
	var live []*process
	for _, r := range w.replicas {
		if r.current == nil {
			w.violate("%s has no process", r.name)
			continue
		}
		live = append(live, r.current)
		if n := r.journal.Len(); n > 0 {
			w.violate("%d entries are left in the journal of %s", n, r.name)
		}
	}
	for _, h := range w.histories {
		w.checkEvents(h)
	}
	w.mu.Unlock()
	for _, p := range live {
		if err := p.broker.Ready(context.Background()); err != nil {
			w.violated("%s is not ready: %v", p.name, err)
		}
		for _, key := range w.keys {
			w.verifyConnection(p, key)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	dead := 0
	for _, p := range w.processes {
		if p.dead {
			dead++
		}
	}
	if w.calls > 0 && dead == 0 {
		w.violate("%d calls have not ended", w.calls)
	}
}

// verifyConnection checks that a connection works if its refresh token does, and that the
// record of a connection with a dead refresh token tells why.
func (w *world) verifyConnection(p *process, key record.Key) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	w.mu.Lock()
	token := w.histories[key].token()
	works, kept := token != nil && w.provider.redeems(token), token != nil && token.kept()
	w.mu.Unlock()
	if token == nil {
		return
	}
	_, err := w.downstream(ctx, p, key)
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case works && err != nil:
		w.violate("%s cannot use %s: %v; %s works", p.name, key.Consumer, err, token.value)
	case kept && !token.grant.excused:
		w.violate("%s of %s is stored, though the answer to it was in a journal", token.value, key.Consumer)
	case !works && token.ambiguous == 0 && !token.grant.excused && !token.explained():
		w.violate("%s of %s no longer works, and no record has an ambiguous outcome for it", token.value, key.Consumer)
	}
}

// explained reports whether this token, or one that it descends from, has ambiguous
// outcomes, with which the grant may have been lost.
func (t *refreshToken) explained() bool {
	for ; t != nil; t = t.parent {
		if t.ambiguous > 0 {
			return true
		}
	}
	return false
}

// kept reports whether a store or a journal has held a refresh token that this one was
// redeemed for.
func (t *refreshToken) kept() bool {
	return slices.ContainsFunc(t.attempts, func(a *attempt) bool { return a.refresh != "" && a.durable })
}

// checkEvents checks that each change of a cycle was announced at most once.
func (w *world) checkEvents(h *history) {
	for event, n := range h.emitted {
		if n > h.moved[event] {
			w.violate("%s: %d events %s for %d changes", h.key.Consumer, n, event, h.moved[event])
		}
	}
}
