package record

import (
	"errors"
	"fmt"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
)

// Errors of connections in standby.
var (
	// ErrStandby means that a connection in standby has no valid token, and that the broker must
	// not obtain one.
	ErrStandby = errors.New("the connection is in standby")

	// ErrRefreshing means that a token request for a connection that was put into standby may
	// still be in progress. Ask again later.
	ErrRefreshing = errors.New("a refresh is in progress: try again")
)

// StandbyError returns [ErrStandby] if the record is in standby, with what to do about it.
// Otherwise it returns nil.
func (r *Record) StandbyError() error {
	if !r.Standby {
		return nil
	}
	return fmt.Errorf("%w: the system that it comes from still refreshes its token, and the token broker must not: "+
		"import the connection to %s again with a valid token, or activate it", ErrStandby, r.Key.Connector)
}

// CanRefresh reports whether the broker can and may obtain a new token.
func (r *Record) CanRefresh(conn *Connector) bool {
	return !r.Standby && conn.CanRefresh(r.Credentials)
}

// EnterStandby puts the connection into standby and reports whether it was active. A lease
// stays: its holder may be sending the refresh token.
func (r *Record) EnterStandby() (changed bool) {
	changed = !r.Standby
	r.Standby, r.Cycle.Queued = true, false
	return changed
}

// Activate ends the standby and reports whether the record was in it. If the connection needs a
// refresh at once, one is queued. conn is nil if the connector is not configured.
func (r *Record) Activate(conn *Connector, now time.Time) (changed bool) {
	if !r.Standby {
		return false
	}
	r.Standby = false
	if r.HasRetention() && r.Cycle.Retention > 0 {
		r.Cycle.CredentialsExpireAt = now.Add(r.Cycle.Retention) // it did not run in standby
	}
	if conn != nil && !r.IsParked() {
		r.queueFirstRefresh(conn, now)
	}
	return true
}

// queueFirstRefresh queues the refresh that must follow an import or an activation, if any.
func (r *Record) queueFirstRefresh(conn *Connector, now time.Time) {
	if conn.AuthType == connector.OAuth2 && r.needsFirstRefresh(now) && r.CanRefresh(conn) {
		r.Cycle.Queued = true
	}
}

// AbandonLease removes a lease whose holder is gone. The outcome of its request is unknown.
func (r *Record) AbandonLease() {
	r.Lease = nil
	r.Cycle.Ambiguous++
}

// isValidAt reports whether there is an access token that has not expired at t.
func (c *Credentials) isValidAt(t time.Time) bool {
	return c != nil && !c.AccessToken.IsZero() && !c.ExpiredAt(t)
}

// supersedes reports whether the access token sent is newer than the stored one, which belongs
// to the same refresh token. In standby the system that sends it is the one that refreshes, so
// there the token need not have an issue date.
func (c *ImportCredentials) supersedes(stored *Credentials, issuedAt time.Time, standby bool) bool {
	switch {
	case c.AccessToken.IsZero():
		return false
	case !standby || !issuedAt.IsZero():
		return issuedAt.After(stored.IssuedAt)
	case c.AccessToken.Equal(stored.AccessToken):
		return false
	case c.ExpiresAt.IsZero():
		return !stored.Redeemed // nothing says which is newer: the last import does
	default:
		return c.ExpiresAt.After(stored.Expiry)
	}
}
