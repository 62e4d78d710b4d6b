package model

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker"
	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

func sprint(args ...any) string { return strings.TrimSpace(fmt.Sprintln(args...)) }

// operate does one random thing to the world.
func (w *world) operate(rng *rand.Rand) {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := w.replicas[rng.IntN(len(w.replicas))]
	p, key := r.current, w.keys[rng.IntN(len(w.keys))]
	if w.histories[key].rec == nil && p != nil { // without a connection nothing happens
		w.importTokens(rng, p, key)
		return
	}
	switch n := rng.IntN(100); {
	case p == nil:
	case n < 20:
		w.call(p, key, rng)
	case n < 24:
		w.run(p, "validate", 10*time.Minute, func(ctx context.Context) error { _, err := p.broker.Validate(ctx, key); return err })
	case n < 34:
		for _, r := range w.replicas {
			for range 3 {
				w.call(r.current, key, rng)
			}
		}
	case n < 41:
		w.importTokens(rng, p, key)
	case n < 46:
		w.switchStandby(rng, p, key)
	case n < 48:
		w.importSettings(p, key)
	case n < 50:
		w.update(p, key)
	case n < 53:
		w.run(p, "delete", time.Minute, func(ctx context.Context) error { return p.broker.Delete(ctx, key) })
	case n < 58:
		p.trap = arm(rng, between(rng, time.Second, 4*time.Minute))
		w.logf("%s: will be paused at %s", p.name, p.trap.point)
	case n < 60:
		p.pause(between(rng, time.Second, 4*time.Minute))
		p.disturb()
	case n < 66:
		p.trap = arm(rng, 0)
		w.logf("%s: will crash at %s", p.name, p.trap.point)
	case n < 68:
		p.crash()
	case n < 71:
		w.restart(p)
	default:
		w.makeTrouble(rng, r, key, n)
	}
}

// arm draws the point at which a process pauses or crashes.
func arm(rng *rand.Rand, pause time.Duration) *trap {
	a := &trap{point: points[rng.IntN(len(points))], skip: rng.IntN(3), pause: pause}
	if a.point == "now" {
		a.skip = rng.IntN(20) // it is passed often
	}
	return a
}

// makeTrouble makes something other than a process fail.
func (w *world) makeTrouble(rng *rand.Rand, r *replica, key record.Key, n int) {
	t := trouble{until: time.Now().Add(between(rng, time.Second, 5*time.Minute)), percent: []int{15, 50, 100}[rng.IntN(3)]}
	switch {
	case n < 78:
		if rng.IntN(3) > 0 {
			t.kind = storeTroubles[rng.IntN(len(storeTroubles))]
		}
		if t.kind == storeConflicts && t.percent == 100 {
			t.percent = 50
		}
		hit := []*replica{r}
		if rng.IntN(2) == 0 {
			hit = w.replicas
		}
		for _, r := range hit {
			r.trouble = t
		}
		w.logf("the store fails for %d replicas, %s %d%%, until %v", len(hit), t.kind, t.percent, t.until.Sub(w.begun))
	case n < 86:
		if rng.IntN(3) > 0 {
			t.kind = answerKinds[rng.IntN(len(answerKinds))]
		}
		w.provider.trouble = t
		w.logf("the token endpoint fails, %s %d%%, until %v", t.kind, t.percent, t.until.Sub(w.begun))
	case n < 89:
		w.logf("the journal of %s fails", r.name)
		r.journal.Fail(errTrouble)
		time.AfterFunc(time.Until(t.until), func() { r.journal.Fail(nil) })
	case w.jumps && n < 91:
		w.setClocks(rng, r)
	case n < 93:
		w.reconfigure(rng, r)
	case n < 97:
		for _, a := range w.provider.access {
			a.revoked = true
		}
		w.logf("all access tokens are revoked")
	case n < 98:
		if token := w.histories[key].token(); token != nil {
			w.logf("the customer revokes the grant of %s", token.value)
			token.grant.revoked, token.grant.excused = true, true
		}
	}
}

// setClocks sets the clock of one replica, or of all, by up to a day.
func (w *world) setClocks(rng *rand.Rand, r *replica) {
	set := []*replica{r}
	if rng.IntN(2) == 0 {
		set = w.replicas
	}
	by := between(rng, 0, 24*time.Hour)
	if rng.IntN(2) == 0 {
		by = -by
	}
	for _, r := range set {
		r.skew.Add(int64(by))
		w.logf("the clock of %s is set by %v", r.name, by)
	}
}

// reconfigure changes the configuration of a replica, or the client secret at the provider,
// which the replicas learn one by one.
func (w *world) reconfigure(rng *rand.Rand, r *replica) {
	r.timeout = []time.Duration{8 * time.Second, 20 * time.Second, 30 * time.Second}[rng.IntN(3)]
	if rng.IntN(2) == 0 {
		w.provider.secrets++
		w.provider.secret = fmt.Sprint("secret-", w.provider.secrets)
		for _, other := range w.replicas {
			time.AfterFunc(between(rng, 0, 4*time.Minute), func() {
				w.mu.Lock()
				defer w.mu.Unlock()
				other.secret = w.provider.secret
				other.configure()
			})
		}
	}
	r.configure()
}

func (r *replica) configure() {
	r.world.logf("%s is configured: timeout %v, %s", r.name, r.timeout, r.secret)
	if p := r.current; p != nil {
		p.broker.Configure(r.config(p))
	}
}

// restart shuts a process down, as an operator does, and starts another.
func (w *world) restart(p *process) {
	w.logf("%s is shut down", p.name)
	p.closing = true
	begun := time.Now()
	w.background.Go(func() {
		err := p.close(shutdownTime + 2*time.Second)
		w.mu.Lock()
		defer w.mu.Unlock()
		if p.dead {
			return
		}
		w.logf("%s has ended: %v", p.name, err)
		if err != nil && p.resume == nil && p.disturbedAt.Before(begun.Add(-time.Minute)) {
			w.violate("%s did not end in %v: %v", p.name, time.Since(begun), err)
		}
		p.crash()
	})
}

// call asks for a credential, as the token API or the proxy does.
func (w *world) call(p *process, key record.Key, rng *rand.Rand) {
	if p == nil || p.closing {
		return
	}
	timeout := []time.Duration{2 * time.Second, time.Minute, 10 * time.Minute}[rng.IntN(3)]
	if rng.IntN(2) == 0 {
		w.run(p, "token", timeout, func(ctx context.Context) error { _, err := w.token(ctx, p, key); return err })
	} else {
		w.run(p, "downstream", timeout, func(ctx context.Context) error { _, err := w.downstream(ctx, p, key); return err })
	}
}

// run makes a call in the background, and checks that it ends in time. The caller holds mu.
func (w *world) run(p *process, what string, timeout time.Duration, call func(context.Context) error) {
	w.calls++
	begun := time.Now()
	w.background.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		err := call(ctx)
		w.mu.Lock()
		defer w.mu.Unlock()
		w.calls--
		if p.dead {
			return
		}
		took := time.Since(begun)
		w.logf("%s: %s after %v: %v", p.name, what, took, err)
		if took > timeout+time.Second && !p.disturbedSince(begun.Add(-time.Second)) {
			w.violate("%s: %s took %v, its context %v", p.name, what, took, timeout)
		}
	})
}

// importTokens imports tokens: new, repeated, old, undated, expired or dead ones.
func (w *world) importTokens(rng *rand.Rand, p *process, key record.Key) {
	h := w.histories[key]
	t, access := w.provider.login()
	issuedAt, expiresIn := p.now(), w.provider.lifetime
	kind := "new"
	switch rng.IntN(8) {
	case 0: // as if from an earlier login
		kind, issuedAt = "older", issuedAt.Add(-24*time.Hour)
	case 1:
		kind, issuedAt = "undated", time.Time{}
	case 2:
		kind = "dead"
		t.grant.revoked, t.grant.excused = true, true
		issuedAt = issuedAt.Add(-2 * expiresIn)
	case 3, 4, 5: // a refresh token imported before, with the same access token or a later one
		known := slices.Sorted(maps.Keys(h.brought))
		if len(known) == 0 {
			break
		}
		kind = "repeated"
		t = w.provider.tokens[known[rng.IntN(len(known))]]
		if rng.IntN(2) == 0 {
			issuedAt = issuedAt.Add(-24 * time.Hour)
		} else {
			access = w.provider.issue(t.grant)
		}
	case 6: // already expired
		kind, issuedAt = "expired", issuedAt.Add(-2*expiresIn)
	}
	w.logf("%s: imports %s %s %s (%s)", p.name, key.Consumer, t.value, access, kind)
	imp := &record.Import{Credentials: &record.ImportCredentials{
		AccessToken: secret.New(access), RefreshToken: secret.New(t.value), IssuedAt: issuedAt, ExpiresIn: &expiresIn,
	}}
	if rng.IntN(6) == 0 {
		imp.Standby = new(rng.IntN(2) == 0)
	}
	begun := time.Now()
	w.run(p, "import", time.Minute, func(ctx context.Context) error {
		done, err := p.broker.Import(ctx, key, imp)
		w.mu.Lock()
		defer w.mu.Unlock()
		if err != nil {
			return err
		}
		w.logf("%s: import of %s: %s", p.name, t.value, done.Outcome)
		if done.Outcome == record.ImportStored && h.brought[t.value].Before(begun) && !p.dead {
			w.violate("%s says that %s is stored, which was not saved", p.name, t.value)
		}
		return err
	})
}

// importSettings imports settings only.
func (w *world) importSettings(p *process, key record.Key) {
	imp := &record.Import{Settings: map[string]any{"note": strconv.Itoa(len(w.lines))}}
	w.run(p, "settings", time.Minute, func(ctx context.Context) error {
		done, err := p.broker.Import(ctx, key, imp)
		if err == nil && done.Outcome == record.ImportStored {
			w.violated("%s stores credentials though none were sent", p.name)
		}
		return err
	})
}

// update changes settings, which must not affect the credentials.
func (w *world) update(p *process, key record.Key) {
	up := &record.Update{Settings: map[string]any{"note": strconv.Itoa(len(w.lines))}}
	w.run(p, "update", time.Minute, func(ctx context.Context) error { _, err := p.broker.Update(ctx, key, up); return err })
}

// errRefused is the error of a call that downstream refuses.
var errRefused = errors.New("downstream answered 401")

// downstream calls downstream as the proxy does, and again after a 401.
func (w *world) downstream(ctx context.Context, p *process, key record.Key) (access string, err error) {
	for again := false; ; again = true {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://api.acme.test/contacts", nil)
		if err != nil {
			return "", err
		}
		handed := w.handing(p, key)
		auth, err := p.broker.Authorize(req, key)
		access = strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer ")
		handed(broker.Token{AccessToken: secret.New(access)}, err)
		if err != nil {
			return "", err
		}
		w.mu.Lock()
		status := http.StatusOK
		if !w.provider.accepts(access) {
			status = http.StatusUnauthorized
			w.refused[access] = true
			w.logf("%s: downstream refuses %s", p.name, access)
		}
		w.mu.Unlock()
		auth.HandleResponse(brokertest.Response(status, ""))
		switch {
		case status == http.StatusOK:
			return access, nil
		case again || !auth.Renew(ctx):
			return access, errRefused
		}
	}
}
