package record

import (
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
)

// A Connection is what callers and events may know of a connection: everything but
// its credentials. Sensitive settings are [Mask]ed.
type Connection struct {
	Key       Key
	Connector connector.Definition
	State     State
	Health    Health
	Enabled   bool
	Settings  map[string]any // masked
	Metadata  map[string]any

	CreatedAt time.Time
	UpdatedAt time.Time

	// CredentialsExpireAt is when the credentials of a connection that cannot be
	// refreshed will be cleared; zero if they won't.
	CredentialsExpireAt time.Time
	// LastRefreshFailedAt is when the last failed refresh was; zero after a success.
	LastRefreshFailedAt time.Time
}

// A State is how far a connection is on its way to being usable. The values are
// those of ConnectionState in the Vault API.
type State string

// The states.
const (
	StateAvailable  State = "available"  // the connector can be used, there is no connection
	StateAdded      State = "added"      // no credentials yet, or none any more
	StateAuthorized State = "authorized" // credentials, but a required setting is missing
	StateCallable   State = "callable"   // ready for calls
	StateInvalid    State = "invalid"    // the credentials do not work
)

// A Health says what an operator has to do about a connection. The values are those
// of ConnectionHealth in the Vault API.
type Health string

// The health values that the broker uses.
const (
	HealthOK              Health = "ok"
	HealthPendingRefresh  Health = "pending_refresh"  // a refresh failed and is retried
	HealthNeedsAuth       Health = "needs_auth"       // authorise again and import
	HealthMissingSettings Health = "missing_settings" // a required setting is missing
)

// View returns what may be shown of a record.
func (r *Record) View(def *connector.Definition, now time.Time) Connection {
	return Connection{
		Key: r.Key, Connector: *def, Enabled: r.Enabled,
		State: r.state(def, now), Health: r.health(def),
		Settings: maskSettings(def, r.Settings), Metadata: cloneObject(r.Metadata),
		CreatedAt: r.CreatedAt, UpdatedAt: r.UpdatedAt,
		CredentialsExpireAt: r.Cycle.CredentialsExpireAt, LastRefreshFailedAt: r.Cycle.FailedAt,
	}
}

func (r *Record) state(def *connector.Definition, now time.Time) State {
	missing := len(def.MissingSettings(r.Settings)) > 0
	if def.AuthType != connector.OAuth2 {
		if missing {
			return StateAdded
		}
		return StateCallable
	}
	switch c := r.Credentials; {
	case c == nil && !def.FetchesTokens():
		return StateAdded
	case missing:
		return StateAuthorized
	case r.IsParked() && (c == nil || c.ExpiredAt(now) || r.IsRejected()):
		return StateInvalid
	default:
		return StateCallable
	}
}

// health returns the most pressing need, in the Vault API's order.
func (r *Record) health(def *connector.Definition) Health {
	oauth := def.AuthType == connector.OAuth2
	switch {
	case len(def.MissingSettings(r.Settings)) > 0:
		return HealthMissingSettings
	case oauth && r.Credentials == nil && !def.FetchesTokens(), r.IsParked():
		return HealthNeedsAuth
	case oauth && !r.Cycle.FailedAt.IsZero():
		return HealthPendingRefresh
	default:
		return HealthOK
	}
}
