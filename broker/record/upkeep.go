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
	interrupted := (r.Cycle.Queued || r.Cycle.Phase == PhasePending) && !now.Before(r.Cycle.RetryAt)
	return interrupted || r.isIdle(conn, now)
}

// isIdle reports whether the refresh token has gone unused for three quarters of the time
// after which it lapses. The last quarter is reserve for outages of the token endpoint or the
// store.
func (r *Record) isIdle(conn *Connector, now time.Time) bool {
	since := r.Credentials.IssuedAt
	if since.IsZero() {
		since = r.CreatedAt
	}
	return conn.KeepAlive > 0 && now.Sub(since) > conn.KeepAlive/4*3
}
