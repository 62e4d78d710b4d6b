package verifying

import (
	"encoding/hex"
	"net/http"

	"github.com/tokenbroker/caddy-token-broker/broker/secret"
	"github.com/tokenbroker/caddy-token-broker/broker/transfer"
)

// The results of rows. The first three are the broker's.
const (
	resultSame       = "same"
	resultDifferent  = "different"
	resultMissing    = "missing"
	resultFailed     = "failed"     // the broker cannot compare the row
	resultUnreadable = "unreadable" // the row is none
)

// An item is a row without its secrets.
type item struct {
	line int
	names
	Result  string
	State   string
	Health  string
	Standby bool
	Error   string

	Probe       string // the class of the response, such as 2xx; empty: not tried
	ProbeStatus int    // of the response, if it is another class than 2xx
}

// names are what the broker has to know of a row. Tokens are hashes in hex.
type names struct {
	ConsumerID   string `json:"consumer_id"`
	UnifiedAPI   string `json:"unified_api"`
	ServiceID    string `json:"service_id"`
	AccessToken  string `json:"access_token,omitempty"`
	RefreshToken string `json:"refresh_token,omitempty"`
}

// An answer is what the broker says of a row.
type answer struct {
	Status   int    `json:"status_code"`
	Result   string `json:"result"`
	State    string `json:"state"`
	Health   string `json:"health"`
	Standby  bool   `json:"standby"`
	ProbeURL string `json:"probe_url"`
	Error    struct {
		TypeName string `json:"type_name"`
		Message  string `json:"message"`
	} `json:"error"`
}

func newItem(row *transfer.Row, line int, salt []byte) *item {
	it := &item{line: line, names: names{
		ConsumerID: row.ConsumerID, UnifiedAPI: row.Connector.UnifiedAPI, ServiceID: row.Connector.ServiceID,
	}}
	if c := row.Credentials; c != nil {
		it.AccessToken, it.RefreshToken = hash(c.AccessToken, salt), hash(c.RefreshToken, salt)
	}
	return it
}

func hash(token secret.String, salt []byte) string {
	if token.IsZero() {
		return ""
	}
	return hex.EncodeToString(token.MAC(salt))
}

// note takes over the broker's answer.
func (it *item) note(a *answer) {
	it.Result, it.State, it.Health, it.Standby = a.Result, a.State, a.Health, a.Standby
	if a.Status != http.StatusOK {
		it.Result, it.Error = resultFailed, a.Error.TypeName+": "+a.Error.Message
	}
}

// exists reports whether the broker has the connection.
func (it *item) exists() bool { return it.Result == resultSame || it.Result == resultDifferent }
