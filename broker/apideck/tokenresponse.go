package apideck

import (
	"bytes"
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// isTokenResponse reports whether an import's credentials are an unchanged token response, which
// must have a token_type (RFC 6749 section 5.1). In other credentials an unknown member is a
// mistake.
func isTokenResponse(credentials json.RawMessage) bool {
	// Any letter of the name may be escaped.
	if !bytes.Contains(credentials, []byte("token_type")) && !bytes.Contains(credentials, []byte(`\u`)) {
		return false
	}
	return memberNames(credentials)["token_type"]
}

func memberNames(object json.RawMessage) map[string]bool {
	var members map[string]json.RawMessage
	if json.Unmarshal(object, &members) != nil { // eachMember says why
		return nil
	}
	names := make(map[string]bool, len(members))
	for name := range members {
		names[name] = true
	}
	return names
}

// commonMembers are members of token responses that applications often store
// (RFC 6749 section 5.1, RFC 8693 section 2.2.1, OpenID Connect Core section 3.1.3.3, Keycloak
// and Microsoft Entra ID). They are accepted and discarded.
var commonMembers = []string{
	"token_type", "scope", "id_token", "issued_token_type", "state", "session_state", "not-before-policy", "ext_expires_in",
}

// refreshLifetimes are the members with the lifetime of a refresh token, in seconds.
var refreshLifetimes = []string{"refresh_token_expires_in", "x_refresh_token_expires_in", "refresh_expires_in"}

// responseMembers returns the further members that credentials may have: the common members of
// token responses and, in a token response, any other.
func responseMembers(isResponse bool, c *record.ImportCredentials) func(name string) memberFunc {
	return func(name string) memberFunc {
		switch {
		case slices.Contains(refreshLifetimes, name):
			return func(name string, raw json.RawMessage) error {
				// A lifetime that cannot be read is unknown.
				if d, err := secondsMember(name, asSeconds(raw, true)); err == nil && *d > 0 {
					c.RefreshExpiresIn = *d
				}
				return nil
			}
		case isResponse || slices.Contains(commonMembers, name):
			return ignoreMember
		default:
			return nil
		}
	}
}

// asSeconds returns a lifetime in a token response as a whole number. Some token endpoints send
// text or a fraction.
func asSeconds(raw json.RawMessage, isResponse bool) json.RawMessage {
	if !isResponse {
		return raw
	}
	if n, ok := number(raw); ok {
		return json.RawMessage(strconv.FormatFloat(math.Trunc(n), 'f', -1, 64))
	}
	return raw
}

// asDateTime returns a time in a token response in RFC 3339 format, if it is in seconds or
// milliseconds since 1970, as Salesforce's issued_at is.
func asDateTime(raw json.RawMessage, isResponse bool) json.RawMessage {
	const minMilliseconds, tooLate = 1e11, 1e14
	if !isResponse {
		return raw
	}
	n, ok := number(raw)
	if !ok || n < 0 || n > tooLate {
		return raw
	}
	if n < minMilliseconds {
		n *= 1000
	}
	return json.RawMessage(strconv.Quote(time.UnixMilli(int64(n)).UTC().Format(time.RFC3339Nano)))
}

// number reads a JSON number, or text that is one.
func number(raw json.RawMessage) (float64, bool) {
	text := string(raw)
	if raw[0] == '"' && json.Unmarshal(raw, &text) != nil {
		return 0, false
	}
	n, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
	return n, err == nil && !math.IsNaN(n) && !math.IsInf(n, 0)
}
