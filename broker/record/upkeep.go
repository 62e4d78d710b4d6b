package record

import (
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

// RetentionEnded reports whether the credentials of a parked connection must be cleared.
func (r *Record) RetentionEnded(now time.Time) bool {
	expire := r.Cycle.CredentialsExpireAt
	return r.IsParked() && r.Credentials != nil && !expire.IsZero() && !now.Before(expire)
}

// IsNeglected reports whether the connection needs a refresh although no caller asks for one:
// an earlier refresh was interrupted, or the refresh token would lapse unused.
func (r *Record) IsNeglected(conn *Connector, now time.Time) bool {
	c := r.Credentials
	if conn.AuthType != connector.OAuth2 || c == nil || !r.Enabled || r.IsParked() || !conn.CanRefresh(c) {
		return false
	}
	interrupted := (r.Cycle.Queued || r.Cycle.Phase == PhasePending || r.Cycle.NeedsAuth) && !now.Before(r.Cycle.RetryAt)
	return interrupted || r.isIdle(conn, now)
}

// minKeepAlive bounds how often a refresh token is redeemed only to keep it alive. The end of
// some refresh tokens is fixed: each answer then names a shorter lifetime than the one before.
const minKeepAlive = 5 * time.Minute

// isIdle reports whether the refresh token has gone unused for three quarters of the time
// after which it lapses: the connector's keep_alive, or what the token endpoint said if that
// is less. The last quarter is reserve for outages of the token endpoint or the store.
func (r *Record) isIdle(conn *Connector, now time.Time) bool {
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
