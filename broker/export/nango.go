package export

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/transfer"
)

// A NangoWriter writes the bodies of Nango's imports, POST /connections, one a line. The service's
// name becomes the provider_config_key, the consumer the connection_id.
type NangoWriter struct {
	out io.Writer
	buf bytes.Buffer
}

// NewNangoWriter returns a writer of bodies to w. It does not buffer.
func NewNangoWriter(w io.Writer) *NangoWriter { return &NangoWriter{out: w} }

// The default settings of connectors whose credentials are settings.
const (
	settingAPIKey   = "api_key"
	settingUsername = "username"
	settingPassword = "password"
)

// ErrNotInNango means that Nango has no import for a connection.
var ErrNotInNango = errors.New("nango cannot import it")

// nangoBody is the body of an import. Nango refuses unknown members.
type nangoBody struct {
	ProviderConfigKey string           `json:"provider_config_key"`
	ConnectionID      string           `json:"connection_id"`
	Credentials       nangoCredentials `json:"credentials"`
	ConnectionConfig  map[string]any   `json:"connection_config,omitempty"`
	Metadata          map[string]any   `json:"metadata,omitempty"`
}

type nangoCredentials struct {
	Type         string `json:"type"`
	AccessToken  string `json:"access_token,omitempty"`
	RefreshToken string `json:"refresh_token,omitempty"`
	ExpiresAt    string `json:"expires_at,omitempty"` // without it, Nango never refreshes
	APIKey       string `json:"apiKey,omitempty"`

	// Either can be empty, and must be there.
	Username *string `json:"username,omitempty"`
	Password *string `json:"password,omitempty"`
}

// Write writes a row. If the error is [ErrNotInNango], it wrote nothing, and other rows can be
// written.
func (w *NangoWriter) Write(row *transfer.Row) error {
	body := nangoBody{
		ProviderConfigKey: row.Connector.ServiceID, ConnectionID: row.ConsumerID,
		ConnectionConfig: maps.Clone(row.Settings), Metadata: row.Metadata,
	}
	if err := body.setCredentials(row); err != nil {
		return fmt.Errorf("%s: %w", row.Key(), err)
	}
	w.buf.Reset()
	enc := json.NewEncoder(&w.buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(&body); err != nil {
		return fmt.Errorf("%s cannot be encoded", row.Key()) // the encoder's error could quote a value
	}
	_, err := w.out.Write(w.buf.Bytes())
	return err
}

// setCredentials moves a row's secrets to where Nango expects them.
func (b *nangoBody) setCredentials(row *transfer.Row) error {
	if c := row.Credentials; c != nil {
		if c.AccessToken.IsZero() {
			return fmt.Errorf("%w: it has no access token", ErrNotInNango)
		}
		b.Credentials = nangoCredentials{Type: "OAUTH2", AccessToken: c.AccessToken.Reveal(), RefreshToken: c.RefreshToken.Reveal()}
		if !c.ExpiresAt.IsZero() {
			b.Credentials.ExpiresAt = c.ExpiresAt.UTC().Format(time.RFC3339Nano)
		}
		return nil
	}
	if key, ok := b.take(settingAPIKey); ok {
		b.Credentials = nangoCredentials{Type: "API_KEY", APIKey: key}
		return nil
	}
	username, hasUsername := b.take(settingUsername)
	password, hasPassword := b.take(settingPassword)
	if !hasUsername && !hasPassword {
		return fmt.Errorf("%w: it has neither tokens nor an API key nor a password", ErrNotInNango)
	}
	b.Credentials = nangoCredentials{Type: "BASIC", Username: &username, Password: &password}
	return nil
}

// take removes a text from the settings.
func (b *nangoBody) take(setting string) (string, bool) {
	text, ok := b.ConnectionConfig[setting].(string)
	if ok {
		delete(b.ConnectionConfig, setting)
	}
	return text, ok
}
