package broker

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
)

// Backoff between attempts, and after the background job has given up.
const (
	minBackoff = time.Second
	maxBackoff = 5 * time.Minute
)

// cooldown is how long a connection is left alone after its background refresh has given
// up, and how often a refused refresh token is tried again for whoever asks.
const cooldown = 30 * time.Second

// backoff returns how long to wait after so many failed attempts: between half and
// all of a time that doubles from one attempt to the next.
func backoff(attempts int) time.Duration {
	ceiling := maxBackoff
	if shift := attempts - 1; shift < 16 {
		ceiling = min(maxBackoff, minBackoff<<max(shift, 0))
	}
	return ceiling/2 + rand.N(ceiling/2+1)
}

// A cyclePolicy is what a connector and the configuration say about failures.
type cyclePolicy struct {
	rotation  connector.Rotation
	giveUp    time.Duration
	retention time.Duration // of a parked connection's credentials; 0: for ever
	quiet     bool          // the event was emitted for another connection
	alone     bool          // a refusal of the client is taken for one of this connection
}

// succeed merges a token endpoint's answer into the record and ends the cycle. It
// returns the event to emit, if any.
func (r *Record) succeed(ans answer) EventType {
	if r.Credentials == nil {
		r.Credentials = &Credentials{}
	}
	c := r.Credentials
	r.rotate(ans.refreshToken)
	c.AccessToken, c.TokenType, c.Redeemed = ans.accessToken, ans.tokenType, true
	c.IssuedAt, c.Expiry = ans.sentAt, time.Time{}
	if ans.lifetime > 0 {
		c.Expiry = ans.sentAt.Add(ans.lifetime)
	}
	r.Generation++
	recovered := r.Cycle.Phase != PhaseHealthy
	r.Cycle = Cycle{}
	if recovered {
		return EventRefreshRecovered
	}
	return ""
}

// rotate makes next the refresh token, if it is another one, and remembers the old.
func (r *Record) rotate(next Secret) {
	c := r.Credentials
	if next.IsZero() || next.Equal(c.RefreshToken) {
		return
	}
	r.replaceRefreshToken(next)
}

// dropRefreshToken removes a refresh token that was refused for good.
func (r *Record) dropRefreshToken() { r.replaceRefreshToken(Secret{}) }

func (r *Record) replaceRefreshToken(next Secret) {
	c := r.Credentials
	r.rememberReplaced(c.RefreshToken)
	if c.FromImport {
		r.rememberImported(c.RefreshToken)
	}
	c.RefreshToken, c.FromImport = next, false
}

// fail records a failed attempt and plans the next one. It returns the event to
// emit, if any: each phase of a cycle is announced once.
func (r *Record) fail(ans answer, policy cyclePolicy, now time.Time) EventType {
	c := &r.Cycle
	before := c.Phase
	c.FailedAt = now
	c.Attempts++
	if ans.class == ClassAmbiguous {
		c.Ambiguous++
	}
	if r.IsParked() && ans.class != ClassPermanent {
		return "" // one more try was asked for, and has found out nothing: it stays refused
	}
	c.Class, c.Code = ans.class, ans.code
	switch ans.class {
	case ClassPermanent:
		c.Queued, c.Phase, c.RetryAt = false, PhaseFailed, time.Time{}
		c.Parked = r.Credentials.identity()
		if policy.retention > 0 && r.Credentials != nil && c.CredentialsExpireAt.IsZero() { // another try does not prolong it
			c.CredentialsExpireAt = now.Add(policy.retention)
		}
	case ClassConfiguration:
		c.RetryAt = time.Time{} // the connector's pause says when
		if policy.alone {
			c.RetryAt = now.Add(max(cooldown, backoff(c.Attempts)))
		}
		if policy.quiet {
			return ""
		}
		c.Phase = PhaseFailed
	default:
		c.RetryAt = now.Add(r.retryDelay(ans, policy, now))
		if c.GiveUpAt.IsZero() {
			c.GiveUpAt = c.RetryAt.Add(policy.giveUp)
		}
		if before == PhaseHealthy {
			c.Phase = PhasePending
		}
		if !now.Before(c.GiveUpAt) {
			c.Phase, c.RetryAt, c.Queued = PhaseFailed, now.Add(cooldown), false
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

// retryDelay returns when a failure that may pass is worth another attempt.
func (r *Record) retryDelay(ans answer, policy cyclePolicy, now time.Time) time.Duration {
	delay := max(backoff(r.Cycle.Attempts), ans.retryAfter)
	if ans.class != ClassAmbiguous {
		return delay
	}
	switch policy.rotation.Kind {
	case connector.RotationNever:
		return delay
	case connector.RotationWindow:
		// Inside the window a spent token still works: the sooner the better.
		if r.Cycle.Attempts == 1 && policy.rotation.Window > time.Second {
			return rand.N(time.Second)
		}
		return delay
	default:
		// The retry may cost the grant, so it waits until there is nothing to lose.
		if c := r.Credentials; c != nil && c.Expiry.After(now) {
			return max(delay, c.Expiry.Sub(now))
		}
		return delay
	}
}

// tokenError says why the record has no valid token.
func (r *Record) tokenError(now time.Time) *TokenError {
	c := &r.Cycle
	err := &TokenError{
		Key: r.Key, Class: c.Class, Code: c.Code, Parked: r.IsParked(),
		RetryAt: c.RetryAt, FailedAt: c.FailedAt, CredentialsExpireAt: c.CredentialsExpireAt,
		givenUp: c.Phase == PhaseFailed && !c.GiveUpAt.IsZero() && !now.Before(c.GiveUpAt),
	}
	if err.Class == "" {
		err.Class = ClassTransient
	}
	if err.Parked && c.Code != codeNoRefreshToken && c.Code != codeAccessTokenRefused {
		err.RetryAt = c.FailedAt.Add(cooldown)
	}
	if cred := r.Credentials; cred != nil {
		err.FirstRedeem = cred.FromImport && !cred.Redeemed
	}
	return err
}

// refreshTokenHash identifies the refresh token that the record holds, as a [Lease]
// does; it is empty for none.
func (r *Record) refreshTokenHash() TokenHash {
	if r.Credentials == nil {
		return ""
	}
	return r.Credentials.RefreshToken.Hash()
}

// reject parks a connection that has no way to another token, for good: its token
// has expired, or downstream refused it. It returns the error for callers.
func (r *refresher) reject(ctx context.Context, cfg *Config, conn *Connector, generation uint64, code string) error {
	b := r.broker
	now := b.clock.Now()
	var event EventType
	rec, rev, err := b.update(ctx, r.key, func(rec *Record) (*Record, error) {
		if rec == nil || rec.IsTombstone() || rec.Generation != generation || rec.Credentials == nil || rec.IsParked() {
			return nil, errSuperseded
		}
		event = rec.fail(answer{class: ClassPermanent, code: code}, cyclePolicy{retention: cfg.retention()}, now)
		return rec, nil
	})
	failure := &TokenError{Key: r.key, Class: ClassPermanent, Code: code, Parked: true, FailedAt: now}
	switch {
	case err == nil:
		r.install(rec, rev, now)
		b.emit(ctx, cfg, conn, event, rec)
	case !errors.Is(err, errSuperseded):
		failure.Err = err
	}
	return failure
}

// rejectInBackground is reject for a caller that has its answer already.
func (r *refresher) rejectInBackground(conn *Connector, generation uint64) {
	r.react(func() {
		ctx, cancel := context.WithTimeout(context.Background(), openTimeout)
		defer cancel()
		_ = r.reject(ctx, r.broker.Config(), conn, generation, codeAccessTokenRefused)
	})
}

// emit tells of a change that this process has saved.
func (b *Broker) emit(ctx context.Context, cfg *Config, conn *Connector, event EventType, rec *Record) {
	if event == "" {
		return
	}
	level := slog.LevelInfo
	if event != EventRefreshRecovered {
		level = slog.LevelWarn
	}
	attrs := []slog.Attr{slog.String("connection", rec.Key.String())}
	if event != EventRefreshRecovered {
		attrs = append(attrs, slog.String("class", string(rec.Cycle.Class)), slog.String("code", rec.Cycle.Code),
			slog.Int("attempts", rec.Cycle.Attempts))
	}
	if !rec.Cycle.RetryAt.IsZero() {
		attrs = append(attrs, slog.Time("retry_at", rec.Cycle.RetryAt))
	}
	cfg.logger().LogAttrs(ctx, level, string(event), attrs...)
	if cfg.Events == nil {
		return
	}
	now := b.clock.Now()
	cfg.Events.Emit(ctx, Event{ID: uuid.NewString(), Type: event, OccurredAt: now, Connection: rec.view(&conn.Definition, now)})
}
