package model

import (
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// An attempt is one token request.
type attempt struct {
	process *process
	token   *refreshToken
	secret  string
	lease   *savedLease
	kind    string
	sentAt  time.Time // when the request was completely written; zero: it was not

	access, refresh string // granted by the endpoint; empty: not granted

	returned bool         // the process knows the result
	class    record.Class // of the result; empty: a token
	durable  bool         // the granted tokens are in a store or a journal

	journaledAt time.Time // zero: never
}

// inDoubt reports whether the attempt may have spent the refresh token without a trace, as
// far as the processes can know.
func (a *attempt) inDoubt() bool {
	switch {
	case a.sentAt.IsZero():
		return false
	case !a.returned, a.class == record.ClassAmbiguous:
		return true
	case a.class == "":
		return !a.durable
	default:
		return a.refresh != "" && !a.durable // the answer had a refresh token only
	}
}

// A processTransport carries the token requests of a process.
type processTransport struct{ *process }

// RoundTrip implements [http.RoundTripper].
func (t processTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	body := make([]byte, req.ContentLength)
	if _, err := io.ReadFull(req.Body, body); err != nil {
		return nil, err
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, err
	}
	a := t.attempt(form.Get("refresh_token"), secretOf(req))
	if a == nil {
		return nil, errOver
	}
	if err := t.pass("send.before"); err != nil {
		return nil, err
	}
	if err := req.Context().Err(); err != nil || a.kind == unsent {
		// As net/http reports a request that was not completely written.
		httptrace.ContextClientTrace(req.Context()).WroteRequest(httptrace.WroteRequestInfo{Err: errReset})
		t.world.returned(a, record.ClassTransient)
		return nil, errReset
	}
	t.world.send(a)
	replies := make(chan reply, 1)
	t.world.background.Go(func() { replies <- t.world.provider.serve(a) })
	if err := t.pass("send.after"); err != nil {
		return nil, err
	}
	rep := reply{err: req.Context().Err()}
	select {
	case rep = <-replies:
	case <-req.Context().Done():
		rep = reply{err: req.Context().Err(), class: record.ClassAmbiguous}
	case <-t.world.over:
	}
	if err := t.pass("answer"); err != nil {
		return nil, err
	}
	if err := req.Context().Err(); err != nil && t.world.flip() {
		rep = reply{err: err, class: record.ClassAmbiguous} // the answer came too late
	}
	t.world.returned(a, rep.class)
	return rep.resp, rep.err
}

// attempt notes that the process is about to send a token request. It returns nil if the
// process has crashed.
func (p *process) attempt(value, secret string) *attempt {
	w := p.world
	w.mu.Lock()
	defer w.mu.Unlock()
	if p.dead {
		return nil
	}
	a := &attempt{process: p, secret: secret, token: w.provider.tokens[value], kind: answered}
	if a.token == nil { // an import made it up
		a.token = &refreshToken{value: value, grant: &grant{revoked: true, excused: true}}
		w.provider.tokens[value] = a.token
	}
	if w.provider.trouble.now(w) || !w.healed && w.chance(6) {
		if a.kind = w.provider.trouble.kind; a.kind == "" || !time.Now().Before(w.provider.trouble.until) {
			a.kind = answerKinds[w.rng.IntN(len(answerKinds))]
		}
	}
	for _, h := range w.histories {
		if lease := h.leaseFor(p, value); lease != nil {
			a.lease = lease
			w.attempts[lease.id] = a
			lease.attempt = a
			h.checkQuiet(p, lease)
		}
	}
	w.logf("%s: redeems %s (%s)", p.name, value, a.kind)
	if a.lease == nil {
		w.violate("%s redeems %s without a lease for it", p.name, value)
		return a
	}
	// The request may take its whole timeout, and saving five seconds. The process cannot
	// notice a pause between its last look at the clock and the request.
	timeout := (a.lease.duration - leaseSlack) / 2
	if late := time.Since(a.lease.begun) - timeout; late > 0 && !w.store.Exclusive && p.resumedAt.Before(a.lease.written) {
		w.violate("%s sends %v later than its lease allows", p.name, late)
	}
	return a
}

// leaseSlack is the part of a lease that is not for token requests.
const leaseSlack = 5 * time.Second

// send notes that a token request is completely written. Each earlier one that may have
// spent the same refresh token must be recorded as ambiguous.
func (w *world) send(a *attempt) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, earlier := range a.token.attempts {
		if w.provider.rotation.Kind == connector.RotationNever && a.token.isKept() {
			continue // a later answer was recorded: it shows that the token is not spent
		}
		known := a.lease == nil || a.lease.ambiguous || earlier.lease == nil || earlier.lease.ambiguous
		if earlier.inDoubt() && !known && !a.token.grant.excused {
			w.violate("%s sends %s again, which %s may have spent, and no record says so", a.process.name, a.token.value, earlier.process.name)
		}
	}
	a.sentAt = time.Now()
	a.token.attempts = append(a.token.attempts, a)
}

// returned notes that the process knows the result of its attempt.
func (w *world) returned(a *attempt, class record.Class) {
	w.mu.Lock()
	defer w.mu.Unlock()
	a.returned, a.class = true, class
	w.logf("%s: %s was answered: %q", a.process.name, a.token.value, class)
}

// isKept reports whether a store or a journal has the answer to one of the attempts.
func (t *refreshToken) isKept() bool {
	return slices.ContainsFunc(t.attempts, func(a *attempt) bool { return a.durable })
}

func (w *world) flip() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.chance(50)
}

// A cutBody breaks off after twenty bytes at most.
type cutBody struct{ io.ReadCloser }

// Read implements [io.Reader].
func (b cutBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p[:min(len(p), 20)])
	if err == nil && n > 0 {
		return n, io.ErrUnexpectedEOF
	}
	return n, err
}
