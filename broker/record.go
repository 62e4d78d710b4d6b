package broker

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
)

// A Record is all that a [Store] holds of one connection. It prints, logs and
// encodes as its key alone; [EncodeRecord] is for stores.
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
	Imported []TokenHash
	Replaced []TokenHash

	// Lease is held by the process that may redeem the refresh token, if any.
	Lease *Lease

	// Cycle is how refreshing has gone since it last succeeded.
	Cycle Cycle
}

// Credentials are an OAuth token as RFC 6749 section 5.1 describes it.
type Credentials struct {
	AccessToken  Secret
	RefreshToken Secret
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
	RefreshToken TokenHash     // the refresh token that the holder may send
}

// A Cycle begins with the first failed refresh and ends with the next success, or
// with other credentials.
type Cycle struct {
	// Queued: a refresh has been asked for that nobody has finished yet.
	Queued bool

	Phase     Phase
	Class     Class // of the last failure
	Code      string
	FailedAt  time.Time // of the last failure
	Attempts  int       // failed ones
	RetryAt   time.Time // no attempt before this
	GiveUpAt  time.Time // the background job ends then
	Ambiguous int       // attempts of which nobody knows whether they spent the refresh token

	// Parked holds the hash of the refresh token that the token endpoint refused for
	// good (of the access token, where there is no refresh token). While it is that of
	// the current credentials, nothing is sent to the token endpoint.
	Parked TokenHash

	// CredentialsExpireAt is when the credentials of a parked connection are cleared.
	CredentialsExpireAt time.Time
}

// A Phase says which event of a cycle was the last to be emitted.
type Phase string

// The phases of a [Cycle].
const (
	PhaseHealthy Phase = ""        // no failure
	PhasePending Phase = "pending" // failed, being retried
	PhaseFailed  Phase = "failed"  // parked, or given up until somebody asks again
)

// identity is the hash by which credentials are told apart: that of the refresh
// token, or of the access token where there is no refresh token, or of nothing where
// tokens are fetched and none was had yet.
func (c *Credentials) identity() TokenHash {
	if c == nil {
		return Secret{}.Hash()
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

// recordFormat is the version of the encoding; it rises when older programs could
// no longer read what newer ones write.
const recordFormat = 1

// The types below are the stored form of a record. Times are RFC 3339 with
// nanoseconds, durations are nanoseconds.
type recordJSON struct {
	Format      int              `json:"format"`
	Application string           `json:"application"`
	Consumer    string           `json:"consumer"`
	UnifiedAPI  string           `json:"unified_api"`
	ServiceID   string           `json:"service_id"`
	CreatedAt   time.Time        `json:"created_at,omitzero"`
	UpdatedAt   time.Time        `json:"updated_at,omitzero"`
	Deleted     time.Time        `json:"deleted,omitzero"`
	Enabled     bool             `json:"enabled"`
	Settings    map[string]any   `json:"settings,omitempty"`
	Metadata    map[string]any   `json:"metadata,omitempty"`
	Credentials *credentialsJSON `json:"credentials,omitempty"`
	Generation  uint64           `json:"generation"`
	Imported    []TokenHash      `json:"imported,omitempty"`
	Replaced    []TokenHash      `json:"replaced,omitempty"`
	Lease       *leaseJSON       `json:"lease,omitempty"`
	Cycle       cycleJSON        `json:"cycle,omitzero"`
}

type credentialsJSON struct {
	AccessToken  string    `json:"access_token"`
	RefreshToken string    `json:"refresh_token,omitempty"`
	TokenType    string    `json:"token_type,omitempty"`
	IssuedAt     time.Time `json:"issued_at,omitzero"`
	Expiry       time.Time `json:"expiry,omitzero"`
	FromImport   bool      `json:"from_import,omitempty"`
	Redeemed     bool      `json:"redeemed,omitempty"`
}

type leaseJSON struct {
	ID           string        `json:"id"`
	Duration     time.Duration `json:"duration"`
	RefreshToken TokenHash     `json:"refresh_token"`
}

type cycleJSON struct {
	Queued              bool      `json:"queued,omitempty"`
	Phase               Phase     `json:"phase,omitempty"`
	Class               Class     `json:"class,omitempty"`
	Code                string    `json:"code,omitempty"`
	FailedAt            time.Time `json:"failed_at,omitzero"`
	Attempts            int       `json:"attempts,omitempty"`
	RetryAt             time.Time `json:"retry_at,omitzero"`
	GiveUpAt            time.Time `json:"give_up_at,omitzero"`
	Ambiguous           int       `json:"ambiguous,omitempty"`
	Parked              TokenHash `json:"parked,omitempty"`
	CredentialsExpireAt time.Time `json:"credentials_expire_at,omitzero"`
}

// EncodeRecord returns the stored form of r, a JSON object with the secrets in it.
// Only stores call it.
func EncodeRecord(r *Record) ([]byte, error) {
	w := recordJSON{
		Format: recordFormat, Application: r.Key.Application, Consumer: r.Key.Consumer,
		UnifiedAPI: r.Key.Connector.UnifiedAPI, ServiceID: r.Key.Connector.ServiceID,
		CreatedAt: r.CreatedAt.UTC(), UpdatedAt: r.UpdatedAt.UTC(), Deleted: r.Deleted.UTC(), Enabled: r.Enabled,
		Settings: r.Settings, Metadata: r.Metadata, Generation: r.Generation,
		Imported: r.Imported, Replaced: r.Replaced, Lease: (*leaseJSON)(r.Lease), Cycle: cycleJSON(r.Cycle),
	}
	if c := r.Credentials; c != nil {
		w.Credentials = &credentialsJSON{
			AccessToken: c.AccessToken.Reveal(), RefreshToken: c.RefreshToken.Reveal(), TokenType: c.TokenType,
			IssuedAt: c.IssuedAt.UTC(), Expiry: c.Expiry.UTC(), FromImport: c.FromImport, Redeemed: c.Redeemed,
		}
	}
	b, err := json.Marshal(w)
	if err != nil {
		return nil, fmt.Errorf("encoding the record of %s: %w", r.Key, err)
	}
	return b, nil
}

// DecodeRecord reads the stored form of the record of key. A record that names
// another connection, or that a newer program wrote, is an error.
func DecodeRecord(key Key, b []byte) (*Record, error) {
	var w recordJSON
	if err := decodeNumbers(b, &w); err != nil {
		// Not wrapped: the decoder's error can quote what it read.
		return nil, fmt.Errorf("the stored record of %s is not readable", key)
	}
	if w.Format != recordFormat {
		return nil, fmt.Errorf("the stored record of %s has format %d, this program reads format %d", key, w.Format, recordFormat)
	}
	got := Key{
		Application: w.Application, Consumer: w.Consumer,
		Connector: connector.ID{UnifiedAPI: w.UnifiedAPI, ServiceID: w.ServiceID},
	}
	if got != key {
		return nil, fmt.Errorf("the record stored for %s is that of %s", key, got)
	}
	r := &Record{
		Key: key, CreatedAt: w.CreatedAt, UpdatedAt: w.UpdatedAt, Deleted: w.Deleted, Enabled: w.Enabled,
		Settings: w.Settings, Metadata: w.Metadata, Generation: w.Generation,
		Imported: w.Imported, Replaced: w.Replaced, Lease: (*Lease)(w.Lease), Cycle: Cycle(w.Cycle),
	}
	if c := w.Credentials; c != nil {
		r.Credentials = &Credentials{
			AccessToken: NewSecret(c.AccessToken), RefreshToken: NewSecret(c.RefreshToken), TokenType: c.TokenType,
			IssuedAt: c.IssuedAt, Expiry: c.Expiry, FromImport: c.FromImport, Redeemed: c.Redeemed,
		}
	}
	return r, nil
}
