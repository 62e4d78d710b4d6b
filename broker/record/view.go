package record

import (
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
)

// A Connection is the part of a record that callers and events may see: everything but the
// credentials. Sensitive settings are masked; see [Mask].
type Connection struct {
	Key       Key
	Connector connector.Definition
	State     State
	Health    Health
	Enabled   bool
	Standby   bool           // another system refreshes the tokens
	Settings  map[string]any // masked
	Metadata  map[string]any

	CreatedAt time.Time
	UpdatedAt time.Time

	// CredentialsExpireAt is when the credentials of a parked connection will be cleared,
	// zero for never.
	CredentialsExpireAt time.Time
	// RefreshTokenExpiresAt is when the refresh token lapses, by what the token endpoint said;
	// zero if it did not.
	RefreshTokenExpiresAt time.Time
	// LastRefreshFailedAt is the time of the last failed refresh, zero after a success.
	LastRefreshFailedAt time.Time
}

// A State is the progress of a connection towards being usable. The values are those of
// ConnectionState in the Apideck API.
type State string

// The states.
const (
	StateAvailable  State = "available"  // the connector is configured, the connection does not exist
	StateAdded      State = "added"      // credentials are missing
	StateAuthorized State = "authorized" // has credentials, but lacks a required setting, or a valid token in standby
	StateCallable   State = "callable"   // ready for calls
	StateInvalid    State = "invalid"    // the credentials do not work
)

// A Health says what a connection needs from an operator. The values are those of
// ConnectionHealth in the Apideck API.
type Health string

// The health values that the broker uses.
const (
	HealthOK              Health = "ok"
	HealthPendingRefresh  Health = "pending_refresh"  // a refresh failed and will be retried; in standby: by the other system
	HealthNeedsAuth       Health = "needs_auth"       // authorise the connection again and import it
	HealthMissingSettings Health = "missing_settings" // a required setting is missing
)

// View returns the part of the record that may be shown.
func (r *Record) View(def *connector.Definition, now time.Time) Connection {
	c := Connection{
		Key: r.Key, Connector: *def, Enabled: r.Enabled, Standby: r.Standby,
		State: r.state(def, now), Health: r.health(def, now),
		Settings: maskSettings(def, r.Settings), Metadata: cloneObject(r.Metadata),
		CreatedAt: r.CreatedAt, UpdatedAt: r.UpdatedAt,
		CredentialsExpireAt: r.Cycle.CredentialsExpireAt, LastRefreshFailedAt: r.Cycle.FailedAt,
	}
	if r.Standby {
		c.CredentialsExpireAt = time.Time{}
	}
	if r.Credentials != nil {
		c.RefreshTokenExpiresAt = r.Credentials.RefreshExpiry
	}
	return c
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
	case r.NeedsAuth() && (c == nil || c.ExpiredAt(now) || r.IsRejected()):
		return StateInvalid
	case r.Standby && !c.isValidAt(now):
		return StateAuthorized
	default:
		return StateCallable
	}
}

// health returns the most pressing need, in the Apideck API's order.
func (r *Record) health(def *connector.Definition, now time.Time) Health {
	oauth := def.AuthType == connector.OAuth2
	switch {
	case len(def.MissingSettings(r.Settings)) > 0:
		return HealthMissingSettings
	case oauth && r.Credentials == nil && !def.FetchesTokens(), r.NeedsAuth():
		return HealthNeedsAuth
	case oauth && r.Standby:
		if !r.Credentials.isValidAt(now) {
			return HealthPendingRefresh
		}
		return HealthOK
	case oauth && !r.Cycle.FailedAt.IsZero():
		return HealthPendingRefresh
	default:
		return HealthOK
	}
}
