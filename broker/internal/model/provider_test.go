package model

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// A provider is a token endpoint and the API behind it. Unless it never rotates, it takes a
// refresh token once, or any number of times within a window; a later reuse revokes the
// grant (RFC 9700 section 4.14.2). The world's mu guards all of it.
type provider struct {
	world     *world
	rotation  connector.Rotation
	lifetime  time.Duration // of access tokens
	strict    bool          // a refresh revokes the earlier access tokens of the grant
	retention time.Duration // configured in the brokers; negative: forever
	secret    string        // of the client
	secrets   int           // that there have been
	trouble   trouble

	issued int
	grants int
	tokens map[string]*refreshToken
	access map[string]*accessToken
	bought map[string]*attempt // by the access or refresh token that it got
}

type grant struct {
	number  int
	revoked bool
	excused bool // its death is not the broker's fault
	dropped bool // its connection was deleted, or its credentials cleared
}

type refreshToken struct {
	value   string
	grant   *grant
	parent  *refreshToken // redeemed for this one; nil: this one is from a login
	spentAt time.Time

	attempts  []*attempt // to redeem it
	ambiguous int        // leases for it that records count as ambiguous
}

type accessToken struct {
	grant   *grant
	expiry  time.Time
	revoked bool
}

func newProvider(w *world, rng *rand.Rand) *provider {
	p := &provider{
		world: w, secret: "secret-0", strict: rng.IntN(3) == 0, retention: -1,
		lifetime: []time.Duration{6 * time.Minute, 20 * time.Minute, time.Hour}[rng.IntN(3)],
		tokens:   make(map[string]*refreshToken), access: make(map[string]*accessToken),
		bought: make(map[string]*attempt),
	}
	if rng.IntN(4) == 0 {
		p.retention = 2 * time.Hour
	}
	switch rng.IntN(5) {
	case 0:
		p.rotation.Kind = connector.RotationNever
	case 1:
		p.rotation = connector.Rotation{Kind: connector.RotationWindow, Window: 2 * time.Minute}
	default:
		p.rotation.Kind = connector.RotationAlways
	}
	return p
}

// String describes the provider.
func (p *provider) String() string {
	return fmt.Sprintf("a provider that rotates %s %v, tokens of %v, strict %v", p.rotation.Kind, p.rotation.Window, p.lifetime, p.strict)
}

// login makes a grant and returns its first tokens.
func (p *provider) login() (*refreshToken, string) {
	p.grants++
	t := &refreshToken{value: fmt.Sprintf("R%d", p.grants), grant: &grant{number: p.grants}}
	p.tokens[t.value] = t
	return t, p.issue(t.grant)
}

// issue makes an access token.
func (p *provider) issue(g *grant) string {
	p.issued++
	value := fmt.Sprintf("A%d.%d", g.number, p.issued)
	p.access[value] = &accessToken{grant: g, expiry: time.Now().Add(p.lifetime)}
	return value
}

// accepts reports whether the API accepts an access token.
func (p *provider) accepts(access string) bool {
	a := p.access[access]
	return a != nil && !a.revoked && !a.grant.revoked && time.Now().Before(a.expiry)
}

// lasts reports whether an access token expires no sooner than d from now. Skewed clocks can
// count its lifetime from later or earlier than its issue.
func (p *provider) lasts(access string, d time.Duration) bool {
	a := p.access[access]
	return a != nil && time.Now().Add(d).Before(a.expiry)
}

// redeems reports whether the token endpoint would take a refresh token.
func (p *provider) redeems(t *refreshToken) bool {
	return !t.grant.revoked && (t.spentAt.IsZero() || time.Since(t.spentAt) < p.rotation.Window)
}

// redeem processes a token request.
func (p *provider) redeem(a *attempt) *http.Response {
	invalid := func(code string) *http.Response {
		return brokertest.Response(http.StatusBadRequest, map[string]any{"error": code})
	}
	t := a.token
	switch {
	case a.secret != p.secret:
		return brokertest.Response(http.StatusUnauthorized, map[string]any{"error": "invalid_client"})
	case t.grant.revoked:
		return invalid("invalid_grant")
	case !p.redeems(t):
		p.revoke(t)
		return invalid("invalid_grant")
	}
	answer := map[string]any{"token_type": "bearer", "expires_in": int(p.lifetime.Seconds())}
	if p.strict {
		for _, other := range p.access {
			other.revoked = other.revoked || other.grant == t.grant
		}
	}
	a.access = p.issue(t.grant)
	answer["access_token"] = a.access
	if p.rotation.Kind != connector.RotationNever {
		if t.spentAt.IsZero() {
			t.spentAt = time.Now()
		}
		a.refresh = fmt.Sprintf("%s.%d", strings.TrimSuffix(t.value, "."), p.issued)
		p.tokens[a.refresh] = &refreshToken{value: a.refresh, grant: t.grant, parent: t}
		answer["refresh_token"] = a.refresh
	}
	if a.kind == onlyRefreshToken && a.refresh != "" {
		delete(answer, "access_token")
		a.access = ""
	}
	p.bought[a.access], p.bought[a.refresh] = a, a
	return brokertest.Response(http.StatusOK, answer)
}

// revoke ends the grant of a spent refresh token that was sent again.
func (p *provider) revoke(t *refreshToken) {
	w := p.world
	w.logf("provider: %s was spent: its grant is revoked", t.value)
	if t.ambiguous == 0 && !t.grant.excused {
		w.violate("%s was redeemed twice and its grant revoked, though no record has an ambiguous outcome for it", t.value)
	}
	t.grant.revoked = true
}

// How a token request can go wrong.
const (
	answered         = "answered"
	slow             = "slow"               // answered after up to a minute
	unsent           = "unsent"             // the connection breaks before the request is written
	lostBefore       = "lost before"        // it breaks before the endpoint has read the request
	lostAfter        = "lost after"         // it breaks after the endpoint has answered
	serverError      = "server error"       // the token is not spent
	serverErrorAfter = "server error after" // the token is spent
	garbage          = "garbage"            // the token is spent, the answer unreadable
	truncated        = "truncated"          // the token is spent, the answer breaks off
	onlyRefreshToken = "only refresh token" // the token is spent, the answer lacks the access token
	overloaded       = "overloaded"         // 429 or 503
	misconfigured    = "misconfigured"      // a redirect, or a page that is no OAuth answer
	refused          = "refused"            // 4xx that do not say whether they are about the grant
)

var answerKinds = []string{
	answered, slow, unsent, lostBefore, lostAfter, serverError, serverErrorAfter, garbage, truncated,
	onlyRefreshToken, overloaded, misconfigured, refused,
}

// serve carries a token request to the endpoint, and the reply back.
func (p *provider) serve(a *attempt) reply {
	w := p.world
	w.mu.Lock()
	there, back := between(w.rng, 10*time.Millisecond, 2*time.Second), between(w.rng, 10*time.Millisecond, 2*time.Second)
	if a.kind == slow {
		there, back = between(w.rng, 0, 30*time.Second), between(w.rng, 0, 30*time.Second)
	}
	w.mu.Unlock()
	time.Sleep(there)
	w.mu.Lock()
	defer w.mu.Unlock()
	rep := p.answer(a)
	w.logf("provider: %s for %s: %s, %s %s", a.kind, a.token.value, rep.what(), a.access, a.refresh)
	w.mu.Unlock()
	time.Sleep(back)
	w.mu.Lock()
	return rep
}

// A reply is the reply to a token request.
type reply struct {
	resp  *http.Response
	err   error        // of the connection
	class record.Class // as a client must see it; empty: a token
}

func (r reply) what() string {
	if r.resp == nil {
		return r.err.Error()
	}
	return fmt.Sprintf("%d (%s)", r.resp.StatusCode, r.class)
}

var errReset = errors.New("connection reset by peer")

// answer answers a token request in the way that was drawn for it.
func (p *provider) answer(a *attempt) reply {
	pick := func(statuses ...int) *http.Response {
		return brokertest.Response(statuses[p.world.rng.IntN(len(statuses))], "no")
	}
	ambiguous := func(resp *http.Response) reply { return reply{resp: resp, class: record.ClassAmbiguous} }
	switch a.kind {
	case lostBefore:
		return reply{err: errReset, class: record.ClassAmbiguous}
	case serverError:
		return ambiguous(pick(408, 500, 502, 504))
	case overloaded:
		resp := pick(429, 503)
		if p.world.chance(50) {
			resp.Header.Set("Retry-After", "200")
		}
		return reply{resp: resp, class: record.ClassTransient}
	case misconfigured:
		resp := pick(302, 307, 403, 404, 405)
		resp.Body = io.NopCloser(strings.NewReader("<html>"))
		return reply{resp: resp, class: record.ClassTransient}
	case refused:
		code := []string{"unauthorized_client", "invalid_request", "interaction_required"}[p.world.rng.IntN(3)]
		return reply{resp: brokertest.Response(400+p.world.rng.IntN(5), map[string]any{"error": code}), class: record.ClassRefused}
	}
	resp := p.redeem(a)
	if resp.StatusCode != http.StatusOK {
		if a.kind == lostAfter {
			return reply{err: errReset, class: record.ClassAmbiguous}
		}
		class := record.ClassPermanent
		if resp.StatusCode == http.StatusUnauthorized {
			class = record.ClassConfiguration
		}
		return reply{resp: resp, class: class}
	}
	switch a.kind {
	case lostAfter:
		return reply{err: errReset, class: record.ClassAmbiguous}
	case serverErrorAfter:
		return ambiguous(pick(500, 502, 504))
	case garbage:
		return ambiguous(brokertest.Response(http.StatusOK, "<html>"))
	case truncated:
		resp.Body = cutBody{resp.Body}
		return ambiguous(resp)
	case onlyRefreshToken:
		if a.refresh != "" {
			return reply{resp: resp, class: record.ClassTransient}
		}
	}
	return reply{resp: resp}
}

// secretOf returns the client secret that a request authenticates with.
func secretOf(req *http.Request) string {
	_, secret, _ := req.BasicAuth()
	decoded, err := url.QueryUnescape(secret)
	if err != nil {
		return ""
	}
	return decoded
}
