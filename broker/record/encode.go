package record

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// The versions of the stored form. A record has the lowest one with which a program that cannot
// read it does no harm.
const (
	recordFormat = 1
	// standbyFormat is that of a connection in standby. A program that does not know Standby
	// would redeem its refresh token; this keeps it from reading the record.
	standbyFormat = 2
)

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
	Standby     bool             `json:"standby,omitempty"`
	Settings    map[string]any   `json:"settings,omitempty"`
	Metadata    map[string]any   `json:"metadata,omitempty"`
	Credentials *credentialsJSON `json:"credentials,omitempty"`
	Generation  uint64           `json:"generation"`
	Imported    []secret.Hash    `json:"imported,omitempty"`
	Replaced    []secret.Hash    `json:"replaced,omitempty"`
	Lease       *leaseJSON       `json:"lease,omitempty"`
	Cycle       cycleJSON        `json:"cycle,omitzero"`
}

type credentialsJSON struct {
	AccessToken   string        `json:"access_token"`
	RefreshToken  string        `json:"refresh_token,omitempty"`
	TokenType     string        `json:"token_type,omitempty"`
	IssuedAt      time.Time     `json:"issued_at,omitzero"`
	Expiry        time.Time     `json:"expiry,omitzero"`
	Lifetime      time.Duration `json:"lifetime,omitempty"`
	RefreshExpiry time.Time     `json:"refresh_expiry,omitzero"`
	FromImport    bool          `json:"from_import,omitempty"`
	Redeemed      bool          `json:"redeemed,omitempty"`
}

type leaseJSON struct {
	ID           string        `json:"id"`
	Duration     time.Duration `json:"duration"`
	RefreshToken secret.Hash   `json:"refresh_token"`
}

type cycleJSON struct {
	Queued              bool          `json:"queued,omitempty"`
	Phase               Phase         `json:"phase,omitempty"`
	Class               Class         `json:"class,omitempty"`
	Code                string        `json:"code,omitempty"`
	Detail              string        `json:"detail,omitempty"`
	FailedAt            time.Time     `json:"failed_at,omitzero"`
	Attempts            int           `json:"attempts,omitempty"`
	RetryAt             time.Time     `json:"retry_at,omitzero"`
	Wait                time.Duration `json:"wait,omitempty"`
	RejectedWait        time.Duration `json:"rejected_wait,omitempty"`
	GiveUpAt            time.Time     `json:"give_up_at,omitzero"`
	Ambiguous           int           `json:"ambiguous,omitempty"`
	Parked              secret.Hash   `json:"parked,omitempty"`
	TokenRejected       bool          `json:"token_rejected,omitempty"`
	Refused             int           `json:"refused,omitempty"`
	RefusedSince        time.Time     `json:"refused_since,omitzero"`
	NeedsAuth           bool          `json:"needs_auth,omitempty"`
	CredentialsExpireAt time.Time     `json:"credentials_expire_at,omitzero"`
	Retention           time.Duration `json:"retention,omitempty"`
}

// Encode returns the stored form of r: a JSON object that contains the secrets. Only stores
// and the journal need it.
func Encode(r *Record) ([]byte, error) {
	w := recordJSON{
		Format: recordFormat, Application: r.Key.Application, Consumer: r.Key.Consumer,
		UnifiedAPI: r.Key.Connector.UnifiedAPI, ServiceID: r.Key.Connector.ServiceID,
		CreatedAt: r.CreatedAt.UTC(), UpdatedAt: r.UpdatedAt.UTC(), Deleted: r.Deleted.UTC(), Enabled: r.Enabled, Standby: r.Standby,
		Settings: r.Settings, Metadata: r.Metadata, Generation: r.Generation,
		Imported: r.Imported, Replaced: r.Replaced, Lease: (*leaseJSON)(r.Lease), Cycle: cycleJSON(r.Cycle),
	}
	if w.Standby = r.Standby; r.Standby && !r.IsTombstone() {
		w.Format = standbyFormat
	}
	if c := r.Credentials; c != nil {
		w.Credentials = &credentialsJSON{
			AccessToken: c.AccessToken.Reveal(), RefreshToken: c.RefreshToken.Reveal(), TokenType: c.TokenType,
			IssuedAt: c.IssuedAt.UTC(), Expiry: c.Expiry.UTC(), Lifetime: c.Lifetime, RefreshExpiry: c.RefreshExpiry.UTC(),
			FromImport: c.FromImport, Redeemed: c.Redeemed,
		}
	}
	b, err := json.Marshal(w)
	if err != nil {
		return nil, fmt.Errorf("encoding the record of %s: %w", r.Key, err)
	}
	return b, nil
}

// Decode parses the stored form of the record of key. It fails if the record names another
// connection or was written by a newer program.
func Decode(key Key, b []byte) (*Record, error) {
	var w recordJSON
	if err := decodeJSON(b, &w); err != nil {
		// Not wrapped: the decoder's error can quote its input.
		return nil, fmt.Errorf("the stored record of %s is not readable", key)
	}
	if w.Format != recordFormat && w.Format != standbyFormat {
		return nil, fmt.Errorf("the stored record of %s has format %d, this program reads formats up to %d", key, w.Format, standbyFormat)
	}
	got := Key{
		Application: w.Application, Consumer: w.Consumer,
		Connector: connector.ID{UnifiedAPI: w.UnifiedAPI, ServiceID: w.ServiceID},
	}
	if got != key {
		return nil, fmt.Errorf("the record stored for %s belongs to %s", key, got)
	}
	r := &Record{
		Key: key, CreatedAt: w.CreatedAt, UpdatedAt: w.UpdatedAt, Deleted: w.Deleted, Enabled: w.Enabled, Standby: w.Standby,
		Settings: w.Settings, Metadata: w.Metadata, Generation: w.Generation,
		Imported: w.Imported, Replaced: w.Replaced, Lease: (*Lease)(w.Lease), Cycle: Cycle(w.Cycle),
	}
	if c := w.Credentials; c != nil {
		r.Credentials = &Credentials{
			AccessToken: secret.New(c.AccessToken), RefreshToken: secret.New(c.RefreshToken), TokenType: c.TokenType,
			IssuedAt: c.IssuedAt, Expiry: c.Expiry, Lifetime: c.Lifetime, RefreshExpiry: c.RefreshExpiry,
			FromImport: c.FromImport, Redeemed: c.Redeemed,
		}
	}
	return r, nil
}

// decodeJSON decodes a single JSON value and keeps numbers as they are written.
func decodeJSON(b []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	if err := dec.Decode(v); err != nil {
		return err
	}
	if _, err := dec.Token(); err != io.EOF {
		return errors.New("data after the JSON value")
	}
	return nil
}
