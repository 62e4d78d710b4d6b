package apideck

import (
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// Connection is the JSON form of a connection in the Apideck API, reduced to the members that
// the broker supports, and with two that it adds, refresh_token_expires_at and standby. Times are Unix
// milliseconds, 0 for never. It contains no credentials.
type Connection struct {
	ID                  string               `json:"id"`
	ServiceID           string               `json:"service_id"`
	Name                string               `json:"name"`
	UnifiedAPI          string               `json:"unified_api"`
	State               record.State         `json:"state"`
	IntegrationState    string               `json:"integration_state"`
	AuthType            connector.AuthType   `json:"auth_type"`
	OAuthGrantType      *connector.GrantType `json:"oauth_grant_type,omitempty"`
	Status              string               `json:"status"`
	Enabled             bool                 `json:"enabled"`
	Standby             bool                 `json:"standby,omitempty"`
	Website             string               `json:"website,omitempty"`
	Settings            map[string]any       `json:"settings"`
	Metadata            map[string]any       `json:"metadata"`
	FormFields          []formField          `json:"form_fields"`
	Health              record.Health        `json:"health,omitempty"` // absent while the state is available
	CredentialsExpireAt int64                `json:"credentials_expire_at"`
	LastRefreshFailedAt int64                `json:"last_refresh_failed_at"`
	RefreshExpiresAt    int64                `json:"refresh_token_expires_at,omitempty"`
	CreatedAt           int64                `json:"created_at"`
	UpdatedAt           int64                `json:"updated_at"`
}

// ConnectionState is the JSON form of a validation's result.
type ConnectionState struct {
	ID      string       `json:"id"`
	State   record.State `json:"state"`
	Standby bool         `json:"standby,omitempty"` // nothing was tried
}

// Consumer is the JSON form of a deleted consumer.
type Consumer struct {
	ConsumerID string `json:"consumer_id"`
}

// formField describes one setting of a connection, as in the Apideck API.
type formField struct {
	ID          string `json:"id"`
	Label       string `json:"label"`
	Value       any    `json:"value,omitempty"`
	Type        string `json:"type"`
	Required    bool   `json:"required"`
	CustomField bool   `json:"custom_field"`
	Disabled    bool   `json:"disabled"`
	Hidden      bool   `json:"hidden"`
	Sensitive   bool   `json:"sensitive"`
}

// NewConnection returns the JSON form of c.
func NewConnection(c *record.Connection) Connection {
	def := &c.Connector
	w := Connection{
		ID: c.Key.Connector.ConnectionID(), ServiceID: c.Key.Connector.ServiceID, UnifiedAPI: c.Key.Connector.UnifiedAPI,
		Name: def.Name, Website: def.Website,
		State: c.State, Health: c.Health, Enabled: c.Enabled, Standby: c.Standby,
		IntegrationState: "configured", Status: "live", AuthType: def.AuthType,
		Settings: orEmpty(c.Settings), Metadata: orEmpty(c.Metadata),
		FormFields:          make([]formField, 0, len(def.Settings)),
		CredentialsExpireAt: unixMilli(c.CredentialsExpireAt),
		LastRefreshFailedAt: unixMilli(c.LastRefreshFailedAt),
		RefreshExpiresAt:    unixMilli(c.RefreshTokenExpiresAt),
		CreatedAt:           unixMilli(c.CreatedAt),
		UpdatedAt:           unixMilli(c.UpdatedAt),
	}
	if w.Name == "" {
		w.Name = def.ID.ServiceID
	}
	if def.AuthType == connector.OAuth2 {
		w.OAuthGrantType = new(def.Grant().Type)
	}
	for _, s := range def.Settings {
		w.FormFields = append(w.FormFields, newFormField(s, c.Settings[s.Name]))
	}
	return w
}

func newFormField(s connector.Setting, value any) formField {
	f := formField{ID: s.Name, Label: s.Label, Value: value, Type: "text", Required: s.Required, Sensitive: s.Sensitive}
	if f.Label == "" {
		f.Label = label(s.Name)
	}
	switch {
	case s.Sensitive:
		f.Type = "password"
		if value != nil && value != "" {
			f.Value = record.Mask
		}
	case s.Origin:
		f.Type = "url"
	}
	return f
}

// label turns "instance_url" into "Instance url".
func label(name string) string {
	words := strings.ReplaceAll(name, "_", " ")
	if words == "" {
		return ""
	}
	return strings.ToUpper(words[:1]) + words[1:]
}

// unixMilli returns t in Unix milliseconds, 0 for the zero time.
func unixMilli(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func orEmpty(o map[string]any) map[string]any {
	if o == nil {
		return map[string]any{}
	}
	return o
}

// WriteData sends a 200 response with data in the envelope of the Apideck API. It returns an
// error, and sends nothing, if data cannot be encoded.
func WriteData(w http.ResponseWriter, data any) error {
	return write(w, envelope{Data: data})
}

// WritePage is [WriteData] for one page of a response, with the cursor of the next one. after is
// the last connection of the page; zero: it is the last page.
func WritePage(w http.ResponseWriter, data any, after record.Key) error {
	return write(w, envelope{Data: data, Meta: &meta{cursors{Next: newCursor(after)}}})
}

// envelope is the JSON form of a response in the Apideck API.
type envelope struct {
	StatusCode int    `json:"status_code"`
	Status     string `json:"status"`
	Data       any    `json:"data"`
	Meta       *meta  `json:"meta,omitempty"`
}

type meta struct {
	Cursors cursors `json:"cursors"`
}

type cursors struct {
	Next *string `json:"next"` // null: there are no more
}

func write(w http.ResponseWriter, e envelope) error {
	e.StatusCode, e.Status = http.StatusOK, "OK"
	body, err := json.Marshal(e)
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(append(body, '\n'))
	return nil
}
