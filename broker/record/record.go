package record

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// Holds reports whether lease is the one in the record.
func (r *Record) Holds(lease *Lease) bool { return r.Lease != nil && r.Lease.ID == lease.ID }

// A Record is all that a [Store] holds of one connection. It prints, logs and
// encodes as its key alone; [Encode] is for stores.
type Record struct {
	Key       Key
	CreatedAt time.Time
	UpdatedAt time.Time

	// Deleted marks a tombstone: the connection is gone since then, and the record has
	// nothing else in it. Zero for a connection that exists.
	Deleted time.Time

	Enabled  bool
	Settings map[string]any
	Metadata map[string]any

	// Credentials are nil for connections without an OAuth token.
	Credentials *Credentials

	// Generation counts the credentials that the connection has had. Every stored
	// change of credentials raises it.
	Generation uint64

	// Imported holds hashes of refresh tokens that imports brought and that are no
	// longer current, Replaced of those that a redeem replaced by a different one, each
	// the latest last. An import that brings one of them is stale.
	Imported []secret.Hash
	Replaced []secret.Hash

	// Lease is held by the process that may redeem the refresh token, if any.
	Lease *Lease

	// Cycle is how refreshing has gone since it last succeeded.
	Cycle Cycle
}

// Credentials are an OAuth token as RFC 6749 section 5.1 describes it.
type Credentials struct {
	AccessToken  secret.String
	RefreshToken secret.String
	TokenType    string // as the token endpoint named it; empty: Bearer
	IssuedAt     time.Time
	Expiry       time.Time // zero: unknown

	// FromImport: an import brought the refresh token, no redeem has replaced it.
	FromImport bool
	// Redeemed: the access token came from the token endpoint, not with an import.
	Redeemed bool
}

// ExpiredAt reports whether the access token is known to have expired at t.
func (c *Credentials) ExpiredAt(t time.Time) bool {
	return !c.Expiry.IsZero() && !c.Expiry.After(t)
}

// A Lease is the right to redeem one refresh token. Its times are durations,
// measured by whoever observes it: clocks of different machines are never compared.
type Lease struct {
	ID           string        // random, new with every lease
	Duration     time.Duration // after which another process may take over
	RefreshToken secret.Hash   // the refresh token that the holder may send
}

// identity is the hash by which credentials are told apart: that of the refresh
// token, or of the access token where there is no refresh token, or of nothing where
// tokens are fetched and none was had yet.
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

// String implements [fmt.Stringer]; it shows the key alone.
func (r *Record) String() string { return "record of " + r.Key.String() }

// Format implements [fmt.Formatter].
func (r *Record) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(r.String())) }

// GoString implements [fmt.GoStringer].
func (r *Record) GoString() string { return r.String() }

// LogValue implements [slog.LogValuer].
func (r *Record) LogValue() slog.Value { return slog.StringValue(r.Key.String()) }

// MarshalJSON implements [json.Marshaler]; it shows the key alone.
func (r *Record) MarshalJSON() ([]byte, error) { return json.Marshal(r.String()) }
