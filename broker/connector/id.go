package connector

import (
	"errors"
	"fmt"
	"strings"
)

// An ID names a connector: a third-party service under a unified API.
type ID struct {
	UnifiedAPI string // "crm"
	ServiceID  string // "hubspot"
}

// ErrInvalidID is the error of a connector id that breaks the rules of [ParseID].
var ErrInvalidID = errors.New("a connector is named <unified_api>/<service_id>, " +
	"each 1 to 64 lower-case letters, digits, hyphens or underscores")

const maxIDPart = 64

// ParseID reads "crm/hubspot". Each part is 1 to 64 bytes of a-z, 0-9, "-" and "_".
func ParseID(s string) (ID, error) {
	api, service, _ := strings.Cut(s, "/")
	id := ID{UnifiedAPI: api, ServiceID: service}
	return id, id.Validate()
}

// Validate returns an error that matches [ErrInvalidID] if id cannot name a connector.
func (id ID) Validate() error {
	if !validIDPart(id.UnifiedAPI) || !validIDPart(id.ServiceID) {
		return fmt.Errorf("%q: %w", id.String(), ErrInvalidID)
	}
	return nil
}

func validIDPart(s string) bool {
	return s != "" && len(s) <= maxIDPart && hasNameBytes(s)
}

// hasNameBytes reports whether s consists of lower-case letters, digits, hyphens and
// underscores.
func hasNameBytes(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

// Compare orders ids by their text, as [strings.Compare] does.
func (id ID) Compare(other ID) int { return strings.Compare(id.String(), other.String()) }

// String returns "crm/hubspot".
func (id ID) String() string { return id.UnifiedAPI + "/" + id.ServiceID }

// MarshalText implements [encoding.TextMarshaler]. The text is that of [ID.String].
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// ConnectionID returns the id that the Apideck API gives to a connection of this
// connector, "crm+hubspot".
func (id ID) ConnectionID() string { return id.UnifiedAPI + "+" + id.ServiceID }
