package record

import (
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
)

// How long a tombstone is kept.
const (
	tombstoneAge   = 24 * time.Hour // then it is removed for good
	purgeTolerance = time.Hour      // the clocks of replicas differ by less
)

// WasPurged reports whether the record is a tombstone that the sweep of some replica has
// removed from the store, or is about to.
func (r *Record) WasPurged(now time.Time) bool {
	return r.IsTombstone() && now.Sub(r.Deleted) > tombstoneAge+2*purgeTolerance
}

// IsPurgeable reports whether the record is a tombstone that has done its service.
func (r *Record) IsPurgeable(now time.Time) bool {
	return r.IsTombstone() && now.Sub(r.Deleted) > tombstoneAge+purgeTolerance
}

// RetentionEnded reports whether the credentials are to be cleared.
func (r *Record) RetentionEnded(now time.Time) bool {
	expire := r.Cycle.CredentialsExpireAt
	return r.IsParked() && r.Credentials != nil && !expire.IsZero() && !now.Before(expire)
}

// IsNeglected reports whether a refresh should be under way, or is due so that the
// refresh token does not lapse, and nobody asks for it.
func (r *Record) IsNeglected(conn *Connector, now time.Time) bool {
	c := r.Credentials
	if conn.AuthType != connector.OAuth2 || c == nil || !r.Enabled || r.IsParked() || !conn.CanRefresh(c) {
		return false
	}
	lost := (r.Cycle.Queued || r.Cycle.Phase == PhasePending) && !now.Before(r.Cycle.RetryAt)
	return lost || r.isIdle(conn, now)
}

// isIdle reports whether the refresh token has not been used for so long that it
// should be, to stay alive: three quarters of the time after which it lapses, so that
// there is some left for a token endpoint or a store that is out of reach.
func (r *Record) isIdle(conn *Connector, now time.Time) bool {
	since := r.Credentials.IssuedAt
	if since.IsZero() {
		since = r.CreatedAt
	}
	return conn.KeepAlive > 0 && now.Sub(since) > conn.KeepAlive/4*3
}
