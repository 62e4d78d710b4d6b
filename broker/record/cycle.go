package record

import (
	"math/rand/v2"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// Bounds of the backoff between attempts.
const (
	minBackoff = time.Second
	maxBackoff = 5 * time.Minute
)

// Cooldown is how long a connection waits after its background refresh has given up, and how
// often a refused refresh token may be tried again on request.
const Cooldown = 30 * time.Second

// When a connection that is refused again and again is taken for dead, and how often it is tried
// from then on.
const (
	enoughRefusals  = 3 // during the time after which a [Policy] gives up
	hopelessBackoff = time.Hour
)

// backoff returns how long to wait after so many failed attempts: between half and all of a
// ceiling that doubles with each attempt.
func backoff(attempts int) time.Duration {
	ceiling := maxBackoff
	if shift := attempts - 1; shift < 16 {
		ceiling = min(maxBackoff, minBackoff<<max(shift, 0))
	}
	return ceiling/2 + rand.N(ceiling/2+1)
}

// A Policy says how a failure is handled: it comes from the connector, the configuration and
// the circumstances of the attempt.
type Policy struct {
	Rotation  connector.Rotation
	GiveUp    time.Duration // how long the background job retries
	Retention time.Duration // of a parked connection's credentials; 0: for ever
	Announced bool          // the event was already emitted for another connection
	Watched   time.Duration // how long this process has known the record's wait, by its monotonic clock
	Rejected  bool          // downstream has refused the access token, so nothing is lost with it
	Ahead     bool          // the access token is valid, so nothing depends on this attempt
}

// Succeed merges a token endpoint's answer into the record and ends the cycle. It
// returns the event to emit, if any.
func (r *Record) Succeed(ans Answer) EventType {
	if r.Credentials == nil {
		r.Credentials = &Credentials{}
	}
	c := r.Credentials
	r.Rotate(ans)
	c.AccessToken, c.TokenType, c.Redeemed = ans.AccessToken, ans.TokenType, true
	c.IssuedAt, c.Expiry = ans.SentAt, time.Time{}
	if ans.Lifetime > 0 {
		c.Expiry, c.Lifetime = ans.SentAt.Add(ans.Lifetime), ans.Lifetime
	}
	r.capture(ans.Captured)
	r.Generation++
	recovered := r.Cycle.Phase != PhaseHealthy
	r.Cycle = Cycle{}
	if recovered {
		return EventRefreshRecovered
	}
	return ""
}

// Rotate replaces the refresh token by that of a token endpoint's answer, if it is another one,
// and remembers the old one. It also notes the lifetime that the answer gives.
func (r *Record) Rotate(ans Answer) {
	c, next := r.Credentials, ans.RefreshToken
	if !next.IsZero() && !next.Equal(c.RefreshToken) {
		r.replaceRefreshToken(next)
	}
	c.setRefreshExpiry(ans)
}

// DropRefreshToken removes a refresh token that was refused for good.
func (r *Record) DropRefreshToken() { r.replaceRefreshToken(secret.String{}) }

// replaceRefreshToken sets the refresh token and remembers the hash of the old one.
func (r *Record) replaceRefreshToken(next secret.String) {
	c := r.Credentials
	r.rememberReplaced(c.RefreshToken)
	if c.FromImport {
		r.rememberImported(c.RefreshToken)
	}
	c.RefreshToken, c.FromImport, c.RefreshExpiry = next, false, time.Time{}
}

// Fail records a failed attempt and plans the next one. It returns the event to emit, if any:
// each phase of a cycle has one event.
func (r *Record) Fail(ans Answer, policy Policy, now time.Time) EventType {
	c := &r.Cycle
	before := c.Phase
	c.rebase(now, policy.Watched)
	if policy.Ahead && (ans.Class == ClassRefused || ans.Early) && !r.IsParked() {
		r.postpone(ans, now)
		return ""
	}
	c.FailedAt = now
	c.Attempts++
	if ans.Class == ClassAmbiguous {
		c.Ambiguous++
	}
	if r.IsParked() && ans.Class != ClassPermanent {
		return "" // the extra try was inconclusive: the token still counts as refused
	}
	if c.NeedsAuth && ans.Class != ClassPermanent {
		c.waitUntil(now, max(hopelessBackoff, ans.RetryAfter))
		c.Queued = false
		return ""
	}
	c.Class, c.Code, c.Detail = ans.Class, ans.Code, ans.Detail
	switch ans.Class {
	case ClassPermanent:
		c.stopWaiting()
		c.Queued, c.Phase = false, PhaseFailed
		c.Parked = r.Credentials.identity()
		if expire := now.Add(policy.Retention); policy.Retention > 0 && r.Credentials != nil &&
			(c.CredentialsExpireAt.IsZero() || c.CredentialsExpireAt.After(expire)) { // another try does not extend it
			c.CredentialsExpireAt, c.Retention = expire, policy.Retention
		}
	case ClassConfiguration:
		c.stopWaiting() // the breaker decides when
		if policy.Announced {
			return ""
		}
		c.Phase = PhaseFailed
	case ClassRefused:
		r.refuse(policy, now)
	default:
		c.waitUntil(now, max(backoff(c.Attempts), ans.RetryAfter))
		if ans.Class == ClassAmbiguous {
			r.waitAmbiguous(policy, now)
		}
		if c.GiveUpAt.IsZero() {
			c.GiveUpAt = c.RetryAt.Add(policy.GiveUp)
		}
		if before == PhaseHealthy {
			c.Phase = PhasePending
		}
		if !now.Before(c.GiveUpAt) {
			c.waitUntil(now, Cooldown)
			c.Phase, c.Queued = PhaseFailed, false
		}
	}
	switch {
	case c.Phase == before:
		return ""
	case c.Phase == PhasePending:
		return EventRefreshPending
	default:
		return EventRefreshFailed
	}
}

// When a refresh is tried again that was refused while the token is valid.
const (
	minPostponement    = 4 * time.Second
	unknownExpiryRetry = 5 * time.Minute // of a token whose expiry is unknown
)

// postpone plans another attempt after a refresh ahead of the token's expiry was refused. The
// nearer the expiry, the likelier it is accepted. Nothing else changes.
func (r *Record) postpone(ans Answer, now time.Time) {
	c := &r.Cycle
	c.Class, c.Code, c.Detail = ans.Class, ans.Code, ans.Detail
	wait := unknownExpiryRetry
	if cred := r.Credentials; cred != nil && !cred.Expiry.IsZero() {
		left := cred.Expiry.Sub(now)
		wait = left / 2
		if wait < minPostponement {
			wait = left // no sooner: then the token has expired
		}
	}
	c.waitUntil(now, max(wait, ans.RetryAfter))
	c.RejectedWait = max(min(wait, minPostponement), ans.RetryAfter)
}

// refuse records a refusal that may be about this connection or about the client. Its customer
// is asked to authorise again only after several refusals, and even then the credentials stay.
func (r *Record) refuse(policy Policy, now time.Time) {
	c := &r.Cycle
	if c.Refused++; c.RefusedSince.IsZero() {
		c.RefusedSince = now
	}
	evidence := c.RefusedSince.Add(policy.GiveUp)
	if c.Refused >= enoughRefusals && !now.Before(evidence) {
		c.Phase, c.NeedsAuth, c.Queued = PhaseFailed, true, false
		c.waitUntil(now, hopelessBackoff)
		return
	}
	if c.Phase == PhaseHealthy {
		c.Phase = PhasePending
	}
	wait := min(maxBackoff, Cooldown<<min(c.Refused-1, 8))
	if left := evidence.Sub(now); c.Refused >= enoughRefusals-1 && left >= Cooldown {
		wait = min(wait, left) // so that the attempt that decides comes in time
	}
	c.waitUntil(now, wait+rand.N(wait/10))
}

// waitAmbiguous adjusts the planned wait after a failure that may have spent the refresh token.
func (r *Record) waitAmbiguous(policy Policy, now time.Time) {
	c := &r.Cycle
	switch policy.Rotation.Kind {
	case connector.RotationNever:
	case connector.RotationWindow:
		// A spent token still works inside the window, so retry soon.
		if c.Attempts == 1 && policy.Rotation.Window > time.Second {
			c.waitUntil(now, rand.N(time.Second))
		}
	default:
		// The retry may cost the grant, so it waits while the access token works.
		if left := r.Credentials.validFor(now); left > c.Wait && !policy.Rejected {
			delay := c.Wait
			c.waitUntil(now, left)
			c.RejectedWait = delay
		}
	}
}

// validFor returns how long the access token is valid after now, 0 if it has expired or its
// expiry is unknown. That is never longer than its lifetime, even if now is wrong.
func (c *Credentials) validFor(now time.Time) time.Duration {
	if c == nil || c.Expiry.IsZero() {
		return 0
	}
	left := max(0, c.Expiry.Sub(now))
	if lifetime := c.Expiry.Sub(c.IssuedAt); !c.IssuedAt.IsZero() && lifetime > 0 {
		left = min(left, lifetime)
	}
	return left
}

// TokenError returns the reason why the record has no valid token.
func (r *Record) TokenError(now time.Time) *TokenError {
	c := &r.Cycle
	err := &TokenError{
		Key: r.Key, Class: c.Class, Code: c.Code, Detail: c.Detail, Parked: r.NeedsAuth(), Hopeless: c.NeedsAuth,
		RetryAt: c.RetryAt, FailedAt: c.FailedAt, CredentialsExpireAt: c.CredentialsExpireAt,
		GivenUp: !c.NeedsAuth && c.Phase == PhaseFailed && !c.GiveUpAt.IsZero() && !now.Before(c.GiveUpAt),
	}
	if err.Class == "" {
		err.Class = ClassTransient
	}
	if r.IsParked() && c.Code != CodeNoRefreshToken && c.Code != CodeAccessTokenRejected {
		err.RetryAt = c.FailedAt.Add(Cooldown)
		if latest := now.Add(Cooldown); err.RetryAt.After(latest) {
			err.RetryAt = latest
		}
	}
	err.Ambiguous = c.Ambiguous > 0
	if cred := r.Credentials; cred != nil {
		err.FirstRefresh = cred.FromImport && !cred.Redeemed
	}
	return err
}

// RefreshTokenHash returns the hash of the refresh token, as in a [Lease]; empty if the record
// has none.
func (r *Record) RefreshTokenHash() secret.Hash {
	if r.Credentials == nil {
		return ""
	}
	return r.Credentials.RefreshToken.Hash()
}

// A Cycle is a series of failed refreshes. It begins with the first failure and ends with the
// next success, or when other credentials are imported.
type Cycle struct {
	// Queued says that a refresh was requested and has not finished yet.
	Queued bool

	Phase        Phase
	Class        Class         // of the last failure
	Code         string        // of the last failure
	Detail       string        // what the token endpoint said beyond the code; safe to show
	FailedAt     time.Time     // of the last failure
	Attempts     int           // failed attempts
	RetryAt      time.Time     // no attempt before this, by the writer's clock; zero: no wait
	Wait         time.Duration // how long after its decision RetryAt is
	RejectedWait time.Duration // if positive, the shorter wait once downstream has refused the access token
	GiveUpAt     time.Time     // when the background job stops retrying
	Ambiguous    int           // attempts that may have spent the refresh token

	// Parked is the hash of the refresh token that the token endpoint refused for good, or of
	// the access token if there is no refresh token. While the current credentials have this
	// hash, nothing is sent to the token endpoint.
	Parked secret.Hash

	// TokenRejected says that downstream has refused what a connection that needs
	// authorisation had left, its access token.
	TokenRejected bool

	// Refused counts the refusals since RefusedSince that may be about the connection or
	// about the client. NeedsAuth: they are evidence enough that it is the connection. The
	// credentials stay, and are tried now and then.
	Refused      int
	RefusedSince time.Time
	NeedsAuth    bool

	// CredentialsExpireAt is when the credentials of a parked connection are cleared, by the
	// writer's clock. Retention is how long after the refusal that is; 0 if unknown.
	CredentialsExpireAt time.Time
	Retention           time.Duration
}

// A Phase says which event of a cycle was the last to be emitted.
type Phase string

// The phases of a [Cycle].
const (
	PhaseHealthy Phase = ""        // no failure
	PhasePending Phase = "pending" // failed, being retried
	PhaseFailed  Phase = "failed"  // parked, or given up until the next request
)

// IsRejected reports whether the access token is unusable and cannot be refreshed: downstream
// has refused it, or it has expired.
func (r *Record) IsRejected() bool {
	return r.NeedsAuth() && r.Cycle.TokenRejected ||
		r.IsParked() && (r.Cycle.Code == CodeAccessTokenRejected || r.Cycle.Code == CodeNoRefreshToken)
}

// NeedsAuth reports whether the customer must authorise the connection again: its current
// credentials were refused for good, or so often that there is no other explanation.
func (r *Record) NeedsAuth() bool { return r.IsParked() || r.Cycle.NeedsAuth }

// WasRefused reports whether the last word of the token endpoint on the current credentials
// was a refusal of them, or of the client.
func (r *Record) WasRefused() bool {
	return r.IsParked() || r.Cycle.Class == ClassRefused || r.Cycle.Class == ClassConfiguration
}
