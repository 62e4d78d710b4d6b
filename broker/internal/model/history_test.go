package model

import (
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// A history follows one connection's record from save to save. The world's mu guards all of
// it.
type history struct {
	world *world
	key   record.Key

	rec     *record.Record // as it is stored; nil before the first save
	savedAt time.Time
	saves   int
	quiet   bool // a switch to standby has ended, and nothing has ended the standby since

	// replaced has the access and refresh tokens that were replaced, since the connection
	// was last created, with the time.
	replaced map[string]time.Time

	brought map[string]time.Time     // refresh token :: when an import last stored it
	leases  map[string]*savedLease   // by id
	moved   map[record.EventType]int // changes of the cycle, by the event that they call for
	emitted map[record.EventType]int
}

// A savedLease is a lease that was saved.
type savedLease struct {
	id        string
	number    int // among the leases of the connection
	holder    *process
	token     secret.Hash
	begun     time.Time // before it was written
	written   time.Time
	duration  time.Duration
	attempt   *attempt // made with it; nil: none
	ambiguous bool     // the record counts its outcome as ambiguous
}

func newHistory(w *world, key record.Key) *history {
	return &history{
		world: w, key: key, replaced: make(map[string]time.Time), brought: make(map[string]time.Time),
		leases: make(map[string]*savedLease), moved: make(map[record.EventType]int), emitted: make(map[record.EventType]int),
	}
}

// leaseFor returns the latest lease that p has written for a refresh token.
func (h *history) leaseFor(p *process, value string) *savedLease {
	var latest *savedLease
	for _, l := range h.leases {
		if l.holder == p && l.token == secret.New(value).Hash() && (latest == nil || l.number > latest.number) {
			latest = l
		}
	}
	return latest
}

// token returns the refresh token of the stored record, or nil.
func (h *history) token() *refreshToken {
	if h.rec == nil || h.rec.Credentials == nil {
		return nil
	}
	return h.world.provider.tokens[h.rec.Credentials.RefreshToken.Reveal()]
}

// saved checks a record that p has saved.
func (h *history) saved(p *process, next *record.Record, begun time.Time) {
	w, prev := h.world, h.rec
	if prev == nil {
		prev = &record.Record{}
	}
	w.logf("%s: saves %s: %s", p.name, h.key.Consumer, describe(next))
	if next.Generation < prev.Generation {
		w.violate("generation goes back from %d to %d", prev.Generation, next.Generation)
	}
	h.checkJournal(p, next, begun)
	h.checkStandby(p, prev, next)
	h.checkLease(p, prev, next, begun)
	h.checkCycle(p, prev, next)
	h.checkCredentials(p, prev, next)
	h.rec, h.savedAt, h.saves = next, time.Now(), h.saves+1
}

// checkJournal checks that a process saves nothing before what an earlier process has left in
// the journal. The process's own entries stay there while they are being saved.
func (h *history) checkJournal(p *process, next *record.Record, begun time.Time) {
	t := h.token()
	if t == nil || next.Credentials == nil || next.Credentials.RefreshToken.Reveal() != t.value || t.grant.excused {
		return
	}
	for _, a := range t.attempts {
		if a.process.replica == p.replica && a.process != p && a.refresh != "" && !a.journaledAt.IsZero() && a.journaledAt.Before(begun) {
			h.world.violate("%s saves something else before %s, which is in its journal", p.name, a.refresh)
		}
	}
}

// describe returns a short text about a record, for the trace.
func describe(rec *record.Record) string {
	lease, creds := "-", "-"
	if rec.Lease != nil {
		lease = rec.Lease.ID[:8]
	}
	if c := rec.Credentials; c != nil {
		creds = c.RefreshToken.Reveal() + " " + c.AccessToken.Reveal() + " until " + c.Expiry.Format("15:04:05")
	}
	parked := ""
	if rec.IsParked() {
		parked = " parked"
	}
	if rec.IsTombstone() {
		parked = " deleted"
	}
	if rec.Cycle.Queued {
		parked += " queued"
	}
	if rec.Standby {
		parked += " standby"
	}
	return sprint("gen", rec.Generation, creds, "lease", lease, "cycle", rec.Cycle.Phase, rec.Cycle.Class, "ambiguous", rec.Cycle.Ambiguous, parked)
}

// checkLease checks a lease that is written.
func (h *history) checkLease(p *process, prev, next *record.Record, begun time.Time) {
	w := h.world
	if next.Lease == nil || prev.Lease != nil && prev.Lease.ID == next.Lease.ID {
		return
	}
	lease := &savedLease{
		id: next.Lease.ID, number: len(h.leases), holder: p, token: next.Lease.RefreshToken, begun: begun,
		written: time.Now(), duration: next.Lease.Duration,
	}
	h.leases[lease.id] = lease
	if prev.Lease != nil && next.Cycle.Ambiguous == prev.Cycle.Ambiguous && h.leases[prev.Lease.ID].holder == p {
		lease.attempt = h.leases[prev.Lease.ID].attempt // the lease is extended
	}
	valid := prev.Credentials != nil && !prev.Credentials.ExpiredAt(p.now()) && w.provider.lasts(prev.Credentials.AccessToken.Reveal(), time.Minute)
	forced := prev.Credentials != nil && w.refused[prev.Credentials.AccessToken.Reveal()]
	if valid && !w.jumps && !prev.Credentials.Expiry.IsZero() && !forced && prev.Cycle.Class == record.ClassAmbiguous && w.provider.rotation.Kind == "always" {
		w.violate("%s takes a lease to redeem %s again after an ambiguous outcome, though the access token is valid", p.name, h.token().value)
	}
	if prev.Lease == nil {
		if next.Cycle.Ambiguous != prev.Cycle.Ambiguous {
			w.violate("%s counts an ambiguous outcome though there was no lease", p.name)
		}
		return
	}
	former := h.leases[prev.Lease.ID]
	if next.Cycle.Ambiguous == prev.Cycle.Ambiguous {
		if former.holder != p || former.attempt != nil && former.attempt.inDoubt() {
			w.violate("%s takes over the lease of %s and does not count it as ambiguous", p.name, former.holder.name)
		}
		return
	}
	h.ambiguous(former)
	if next.Lease.RefreshToken != prev.Lease.RefreshToken {
		w.violate("%s counts an ambiguous outcome for %s, but the lease was for another refresh token", p.name, h.token().value)
	}
	if !former.holder.disturbedSince(former.begun) {
		w.violate("%s takes over the lease of %s, which nothing kept from releasing it", p.name, former.holder.name)
	}
	if seen := p.seen[former.id]; !w.store.Exclusive && (seen.IsZero() || time.Since(seen) < former.duration) {
		w.violate("%s takes over the lease of %s, which it has not watched for %v", p.name, former.holder.name, former.duration)
	}
	if valid && !forced {
		w.violate("%s takes over the lease of %s, though the access token is valid", p.name, former.holder.name)
	}
}

// ambiguous notes that a record counts the outcome of a lease as ambiguous.
func (h *history) ambiguous(lease *savedLease) {
	lease.ambiguous = true
	for _, t := range h.world.provider.tokens {
		if secret.New(t.value).Hash() == lease.token {
			t.ambiguous++
		}
	}
}

// checkCycle checks the recorded outcome of an attempt.
func (h *history) checkCycle(p *process, prev, next *record.Record) {
	w := h.world
	switch before, after := prev.Cycle.Phase, next.Cycle.Phase; {
	case before == after:
	case after == record.PhasePending:
		h.moved[record.EventRefreshPending]++
	case after == record.PhaseFailed:
		h.moved[record.EventRefreshFailed]++
	default:
		h.moved[record.EventRefreshRecovered]++
	}
	if next.Cycle.NeedsAuth && !prev.Cycle.NeedsAuth && (next.Cycle.Refused < 3 || next.Cycle.Class != record.ClassRefused || !next.Cycle.CredentialsExpireAt.IsZero()) {
		w.violate("%s takes %s for dead after %d refusals (%s)", p.name, h.key.Consumer, next.Cycle.Refused, next.Cycle.Class)
	}
	if next.Lease != nil || next.Cycle.Attempts != prev.Cycle.Attempts+1 {
		return
	}
	var former *savedLease
	if prev.Lease != nil {
		former = h.leases[prev.Lease.ID]
	}
	if prev.Cycle.Ambiguous != next.Cycle.Ambiguous && former != nil {
		h.ambiguous(former)
	}
	switch {
	case former == nil || former.attempt == nil:
		// The answer came through the journal, after another process's turn.
		if next.Cycle.Class != record.ClassTransient {
			w.violate("%s records a failure (%s) that no attempt had", p.name, next.Cycle.Class)
		}
	case former.token != prev.Credentials.RefreshToken.Hash():
		w.violate("%s records for %s the outcome of another refresh token (%s)", p.name, prev.Credentials.RefreshToken.Reveal(), next.Cycle.Class)
	case prev.NeedsAuth() && former.attempt.class != record.ClassPermanent:
		// Another try of a refused refresh token had no clear answer.
		if next.Cycle.Class != prev.Cycle.Class || !next.NeedsAuth() {
			w.violate("%s records %s of a refresh token that was refused, for an attempt that was %q", p.name, next.Cycle.Class, former.attempt.class)
		}
	case former.attempt.class != next.Cycle.Class:
		w.violate("%s records %s for an attempt that was %q", p.name, next.Cycle.Class, former.attempt.class)
	}
}

// checkCredentials checks credentials that replace others.
func (h *history) checkCredentials(p *process, prev, next *record.Record) {
	w, before, after := h.world, prev.Credentials, next.Credentials
	if next.IsTombstone() {
		h.drop()
		return
	}
	if prev.IsTombstone() {
		before = nil
	}
	if after == nil {
		if before != nil && !prev.IsParked() {
			w.violate("%s clears the credentials of a connection that is not parked", p.name)
		}
		h.dropGrants()
		return
	}
	access, refresh := after.AccessToken.Reveal(), after.RefreshToken.Reveal()
	for _, value := range []string{access, refresh} {
		if a := w.provider.bought[value]; a != nil {
			a.durable = true
		}
		// A clock that is days ahead lets a tombstone be purged early, and what it remembered goes with it.
		if at, ok := h.replaced[value]; ok && !w.jumps {
			w.violate("%s brings back %s, which was replaced at %v", p.name, value, at.Sub(w.begun))
		}
	}
	token := w.provider.tokens[refresh]
	if after.FromImport && !after.Redeemed {
		h.brought[refresh] = time.Now()
		if token != nil && token.grant.dropped {
			token.grant.excused = true // the import of deleted tokens is at the caller's risk
		}
	}
	if before == nil {
		return
	}
	if access == before.AccessToken.Reveal() && refresh == before.RefreshToken.Reveal() {
		return
	}
	if next.Generation <= prev.Generation {
		w.violate("%s changes credentials and leaves generation %d", p.name, prev.Generation)
	}
	if access != before.AccessToken.Reveal() {
		h.replaced[before.AccessToken.Reveal()] = time.Now()
	}
	if refresh == before.RefreshToken.Reveal() {
		return
	}
	h.replaced[before.RefreshToken.Reveal()] = time.Now()
	switch {
	case after.FromImport:
		if !after.IssuedAt.IsZero() && after.IssuedAt.Before(before.IssuedAt) && !prev.IsParked() {
			w.violate("%s replaces credentials by earlier ones", p.name)
		}
	case token == nil || token.parent == nil || token.parent.value != before.RefreshToken.Reveal():
		w.violate("%s replaces %s by %s, which it was not redeemed for", p.name, before.RefreshToken.Reveal(), refresh)
	}
}

// drop forgets what a deleted connection had.
func (h *history) drop() {
	h.dropGrants()
	clear(h.replaced)
}

// dropGrants notes that the grants of the connection are no longer the broker's to keep.
func (h *history) dropGrants() {
	for _, t := range h.world.provider.tokens {
		if _, brought := h.brought[t.value]; brought {
			t.grant.dropped = true
		}
	}
}
