package record

import (
	"cmp"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
)

// How long tombstones are kept.
const (
	tombstoneAge   = 24 * time.Hour
	purgeTolerance = time.Hour // more than the clocks of replicas differ
)

// WasPurged reports whether the record is a tombstone that the sweep of another replica may
// already have removed from the store.
func (r *Record) WasPurged(now time.Time) bool {
	return r.IsTombstone() && now.Sub(r.Deleted) > tombstoneAge+2*purgeTolerance
}

// IsPurgeable reports whether the record is a tombstone that can be removed from the store.
func (r *Record) IsPurgeable(now time.Time) bool {
	return r.IsTombstone() && now.Sub(r.Deleted) > tombstoneAge+purgeTolerance
}

// HasRetention reports whether the credentials of the connection, which is parked, are to be
// cleared at some time.
func (r *Record) HasRetention() bool {
	return !r.Standby && r.IsParked() && r.Credentials != nil && !r.Cycle.CredentialsExpireAt.IsZero()
}

// RetentionWatched reports whether a process has watched a parked connection for all of its
// retention.
func (r *Record) RetentionWatched(watched time.Duration) bool {
	return r.HasRetention() && r.Cycle.Retention > 0 && watched >= r.Cycle.Retention
}

// RetentionEnded reports whether the credentials of a parked connection must be cleared, by
// the wall clock.
func (r *Record) RetentionEnded(now time.Time) bool {
	return r.HasRetention() && !now.Before(r.Cycle.CredentialsExpireAt)
}

// IsNeglected reports whether the connection needs a refresh although no caller asks for one:
// an earlier refresh was interrupted, or the refresh token would lapse unused.
func (r *Record) IsNeglected(conn *Connector, now time.Time) bool {
	if !r.isKeptFresh(conn) {
		return false
	}
	interrupted := (r.Cycle.Queued || r.Cycle.Phase == PhasePending || r.Cycle.NeedsAuth) && r.isDue(now)
	return interrupted || r.lapses(conn, now)
}

// isKeptFresh reports whether the connection is refreshed without a caller.
func (r *Record) isKeptFresh(conn *Connector) bool {
	c := r.Credentials
	return conn.AuthType == connector.OAuth2 && c != nil && r.Enabled && !r.IsTombstone() && !r.IsParked() && r.CanRefresh(conn)
}

// IsIdle reports whether the access token ran out at least idle ago and no refresh was tried
// since, because no caller asked for one: the grant may be gone and nothing shows it. If idle
// is 0, no connection is idle.
func (r *Record) IsIdle(conn *Connector, idle time.Duration, now time.Time) bool {
	if idle <= 0 || !r.isKeptFresh(conn) || r.Cycle.NeedsAuth {
		return false
	}
	c := r.Credentials
	ranOut := c.Expiry
	if ranOut.IsZero() && !c.IssuedAt.IsZero() {
		ranOut = c.IssuedAt.Add(cmp.Or(c.Lifetime, UnknownLifetime))
	}
	if ranOut.IsZero() || now.Sub(ranOut) < idle {
		return false
	}
	failed := r.Cycle.FailedAt
	return failed.IsZero() || failed.After(now) || now.Sub(failed) >= idle
}

// minKeepAlive bounds how often a refresh token is redeemed only to keep it alive. The end of
// some refresh tokens is fixed: each answer then names a shorter lifetime than the one before.
const minKeepAlive = 5 * time.Minute

// lapses reports whether the refresh token has gone unused for three quarters of the time
// after which it lapses: the connector's keep_alive, or what the token endpoint said if that
// is less. The last quarter is reserve for outages of the token endpoint or the store.
func (r *Record) lapses(conn *Connector, now time.Time) bool {
	c := r.Credentials
	since := c.IssuedAt
	if since.IsZero() {
		since = r.CreatedAt
	}
	lapse := conn.KeepAlive
	if told := c.RefreshExpiry.Sub(since); !c.RefreshExpiry.IsZero() && told > 0 && (lapse == 0 || told < lapse) {
		lapse = told
	}
	return lapse > 0 && now.Sub(since) > max(lapse/4*3, minKeepAlive)
}
