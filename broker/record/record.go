package record

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// A Record is everything that a [Store] keeps about one connection. Printed, logged or encoded
// as JSON it shows only its key; stores use [Encode].
type Record struct {
	Key       Key
	CreatedAt time.Time
	UpdatedAt time.Time

	// Deleted is when the connection was deleted, zero if it exists. A deleted record is a
	// tombstone: it contains no settings, metadata or credentials.
	Deleted time.Time

	Enabled  bool
	Settings map[string]any
	Metadata map[string]any

	// Standby says that another system refreshes the tokens: the broker neither redeems nor
	// revokes anything. A tombstone keeps it, for token responses that arrive late.
	Standby bool

	// Credentials are nil for connections without an OAuth token.
	Credentials *Credentials

	// Generation counts the credentials that the connection has had. Each stored change
	// of credentials raises it.
	Generation uint64

	// Imported holds the hashes of former refresh tokens that imports brought, Replaced
	// those that a refresh replaced; the latest is last. An import with one of them is
	// stale.
	Imported []secret.Hash
	Replaced []secret.Hash

	// Lease is the right of one process to redeem the refresh token; nil if none has it.
	Lease *Lease

	// Cycle is the state of refreshing since the last success.
	Cycle Cycle
}

// Credentials are an OAuth token (RFC 6749 section 5.1).
type Credentials struct {
	AccessToken  secret.String
	RefreshToken secret.String
	TokenType    string // as in the token response; empty means Bearer
	IssuedAt     time.Time
	Expiry       time.Time // of the access token; zero if unknown

	// Lifetime is how long the latest access token whose lifetime is known lives; 0 if that of
	// none is. It plans refreshes if Expiry is unknown.
	Lifetime time.Duration
	// RefreshExpiry is when the refresh token lapses, by the token endpoint's word; zero if
	// unknown.
	RefreshExpiry time.Time

	// FromImport means that the refresh token came with an import and no refresh has
	// replaced it.
	FromImport bool
	// Redeemed means that the access token came from the token endpoint, not with an
	// import.
	Redeemed bool
}

// UnknownLifetime is the lifetime of an access token if that of none is known.
const UnknownLifetime = time.Hour

// ExpiredAt reports whether the access token is known to have expired at t.
func (c *Credentials) ExpiredAt(t time.Time) bool {
	return !c.Expiry.IsZero() && !c.Expiry.After(t)
}

// A Lease is the right to redeem one refresh token. It contains no point in time: each
// process measures Duration on its own clock, since clocks of machines are never compared.
type Lease struct {
	ID           string        // random, unique to this lease
	Duration     time.Duration // after which another process may take over
	RefreshToken secret.Hash   // of the refresh token that the holder may send
}

// Holds reports whether lease is the record's current one.
func (r *Record) Holds(lease *Lease) bool { return r.Lease != nil && r.Lease.ID == lease.ID }

// identity returns the hash that distinguishes credentials: that of the refresh token, or of
// the access token if there is no refresh token, or of the empty string if c is nil.
func (c *Credentials) identity() secret.Hash {
	if c == nil {
		return secret.String{}.Hash()
	}
	if c.RefreshToken.IsZero() {
		return c.AccessToken.Hash()
	}
	return c.RefreshToken.Hash()
}

// IsTombstone reports whether the connection was deleted.
func (r *Record) IsTombstone() bool { return !r.Deleted.IsZero() }

// IsParked reports whether the current credentials were refused for good.
func (r *Record) IsParked() bool {
	return r.Cycle.Parked != "" && r.Cycle.Parked == r.Credentials.identity()
}

// Clone returns a deep copy.
func (r *Record) Clone() *Record {
	c := *r
	c.Settings = cloneObject(r.Settings)
	c.Metadata = cloneObject(r.Metadata)
	c.Imported = slices.Clone(r.Imported)
	c.Replaced = slices.Clone(r.Replaced)
	if r.Credentials != nil {
		cred := *r.Credentials
		c.Credentials = &cred
	}
	if r.Lease != nil {
		lease := *r.Lease
		c.Lease = &lease
	}
	return &c
}

// String implements [fmt.Stringer]. It shows only the key.
func (r *Record) String() string { return "record of " + r.Key.String() }

// Format implements [fmt.Formatter].
func (r *Record) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(r.String())) }

// GoString implements [fmt.GoStringer].
func (r *Record) GoString() string { return r.String() }

// LogValue implements [slog.LogValuer].
func (r *Record) LogValue() slog.Value { return slog.StringValue(r.Key.String()) }

// MarshalJSON implements [json.Marshaler]. It shows only the key.
func (r *Record) MarshalJSON() ([]byte, error) { return json.Marshal(r.String()) }
