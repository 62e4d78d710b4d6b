package transfer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// A Row is one connection in a file. Printed, logged or given to encoding/json it shows only
// its name: [Row.AppendJSON] is the way to write it with its secrets.
type Row struct {
	App           string // application; empty: the file does not name it
	Connector     connector.ID
	record.Import // ConsumerID is the customer
}

// Key returns the name of the row's connection.
func (r *Row) Key() record.Key {
	return record.Key{Application: r.App, Consumer: r.ConsumerID, Connector: r.Connector}
}

// Format implements [fmt.Formatter] for every verb.
func (r Row) Format(f fmt.State, _ rune) { fmt.Fprint(f, r.Key().String()) }

// LogValue implements [slog.LogValuer].
func (r Row) LogValue() slog.Value { return slog.StringValue(r.Key().String()) }

// MarshalJSON implements [json.Marshaler]. It returns only the name of the connection.
func (r Row) MarshalJSON() ([]byte, error) { return json.Marshal(r.Key().String()) }

// Validate returns an error unless the row names a connection. The application may be missing.
func (r *Row) Validate() error {
	if r.App != "" {
		if err := record.CheckName(record.InputInvalid, "app", r.App); err != nil {
			return err
		}
	}
	if r.ConsumerID == "" {
		return &record.InputError{Kind: record.InputInvalid, Field: "consumer_id"}
	}
	if err := record.CheckName(record.InputInvalid, "consumer_id", r.ConsumerID); err != nil {
		return err
	}
	for _, part := range []struct{ name, value string }{
		{"unified_api", r.Connector.UnifiedAPI}, {"service_id", r.Connector.ServiceID},
	} {
		if part.value == "" {
			return &record.InputError{Kind: record.InputInvalid, Field: part.name}
		}
	}
	return r.Connector.Validate()
}

// A wireRow is a row as it is written. The order of its members is that of the file.
type wireRow struct {
	App         string           `json:"app,omitempty"`
	ConsumerID  string           `json:"consumer_id"`
	UnifiedAPI  string           `json:"unified_api"`
	ServiceID   string           `json:"service_id"`
	Credentials *wireCredentials `json:"credentials,omitempty"`
	Settings    map[string]any   `json:"settings,omitempty"`
	Metadata    map[string]any   `json:"metadata,omitempty"`
}

type wireCredentials struct {
	AccessToken      string     `json:"access_token,omitempty"`
	RefreshToken     string     `json:"refresh_token,omitempty"`
	IssuedAt         *time.Time `json:"issued_at,omitempty"`
	ExpiresAt        *time.Time `json:"expires_at,omitempty"`
	ExpiresIn        *int64     `json:"expires_in,omitempty"`               // seconds
	RefreshExpiresIn int64      `json:"refresh_token_expires_in,omitempty"` // seconds
}

// AppendJSON appends the row to dst as one JSON object without a line break. The result has
// the row's secrets.
func (r *Row) AppendJSON(dst []byte) ([]byte, error) {
	w := wireRow{
		App: r.App, ConsumerID: r.ConsumerID, UnifiedAPI: r.Connector.UnifiedAPI, ServiceID: r.Connector.ServiceID,
		Credentials: newWireCredentials(r.Credentials), Settings: r.Settings, Metadata: r.Metadata,
	}
	buf := bytes.NewBuffer(dst)
	enc := json.NewEncoder(buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(&w); err != nil {
		return dst, errors.New("the row cannot be encoded: its settings or metadata hold other values than JSON has")
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}

func newWireCredentials(c *record.ImportCredentials) *wireCredentials {
	if c == nil {
		return nil
	}
	w := &wireCredentials{
		AccessToken: c.AccessToken.Reveal(), RefreshToken: c.RefreshToken.Reveal(),
		RefreshExpiresIn: int64(c.RefreshExpiresIn / time.Second),
	}
	if t := c.IssuedAt.UTC(); !t.IsZero() {
		w.IssuedAt = &t
	}
	if t := c.ExpiresAt.UTC(); !t.IsZero() {
		w.ExpiresAt = &t
	}
	if c.ExpiresIn != nil {
		seconds := int64(math.Floor(c.ExpiresIn.Seconds()))
		w.ExpiresIn = &seconds
	}
	return w
}

// Secrets yields the row's tokens and the texts in its settings, with the name of their member.
// A setting can be an API key or a password.
func (r *Row) Secrets() iter.Seq2[string, secret.String] {
	return func(yield func(string, secret.String) bool) {
		if c := r.Credentials; c != nil && !(yield("credentials.access_token", c.AccessToken) && yield("credentials.refresh_token", c.RefreshToken)) {
			return
		}
		for name, value := range r.Settings {
			if text, ok := value.(string); ok && !yield("settings."+name, secret.New(text)) {
				return
			}
		}
	}
}
