package transfer

import (
	"cmp"
	"strings"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
)

// A Check looks for values that an import would store, and that cannot work.
type Check struct {
	// MinLifetime refuses rows whose access token expires sooner; 0 refuses none. The system
	// that the rows are from may be refreshing those.
	MinLifetime time.Duration
	// ClientIDs has the OAuth client of each connector, as far as they are known; empty means
	// that the connector has none. A grant can be refreshed only by the client that it belongs
	// to.
	ClientIDs map[connector.ID]string
}

// Refuse returns why a row is not to be sent, nil if it is.
func (c *Check) Refuse(res *Result, now time.Time) *RowError {
	for name, value := range res.Row.Secrets() {
		text := value.Reveal()
		if by := encryptedBy(text); by != "" {
			return rowError(ReasonEncrypted, "%s is encrypted, likely by %s: decrypt it first", name, by)
		}
		if strings.HasSuffix(text, "...") || strings.HasSuffix(text, "…") {
			return rowError(ReasonTruncated, "%s ends in an ellipsis: export the whole value", name)
		}
	}
	if e := res.Expiry; e != nil && c.MinLifetime > 0 {
		expires := e.At
		if creds := res.Row.Credentials; expires.IsZero() && creds != nil && !creds.IssuedAt.IsZero() {
			expires = creds.IssuedAt.Add(e.Lifetime)
		}
		if left := expires.Sub(now); !expires.IsZero() && left < c.MinLifetime {
			return rowError(ReasonShortLived, "the access token expires at %s: let the old system refresh it, and export the row again",
				expires.UTC().Format(time.RFC3339))
		}
	}
	return nil
}

// Doubts returns what is doubtful about a row that is sent nevertheless.
func (c *Check) Doubts(res *Result) []*RowError {
	var doubts []*RowError
	creds := res.Row.Credentials
	if creds == nil {
		return nil
	}
	if creds.RefreshToken.IsZero() {
		doubts = append(doubts, rowError(ReasonNoRefresh, "credentials.refresh_token is missing: nothing can refresh the token"))
	}
	for name, value := range res.Row.Secrets() {
		if n := len(value.Reveal()); isColumnLength(n) {
			doubts = append(doubts, rowError(ReasonLength, "%s has exactly %d bytes: if its column has no more, the value is truncated", name, n))
		}
	}
	own, _ := res.Row.Settings["client_id"].(string)
	configured, isKnown := c.ClientIDs[res.Row.Connector]
	want := cmp.Or(own, configured)
	if isKnown && want == "" {
		doubts = append(doubts, rowError(ReasonNoClient, "%s is configured without a client_id: its tokens cannot be refreshed", res.Row.Connector))
	}
	if res.ClientID != "" && want != "" && res.ClientID != want {
		doubts = append(doubts, rowError(ReasonClient, "the grant belongs to the OAuth client %s, and %s is configured with %s: it cannot be refreshed",
			quoteName(res.ClientID), res.Row.Connector, quoteName(want)))
	}
	return doubts
}

// encryptedBy returns what likely encrypted a value, empty for a plain one.
func encryptedBy(text string) string {
	for _, form := range []struct{ prefix, by string }{
		{`{"p":`, "Rails"},         // Active Record encryption: a JSON object
		{"eyJpdiI6", "Laravel"},    // base64 of {"iv":
		{"gAAAAA", "a Fernet key"}, // version 0x80, and a time until the year 2106
	} {
		if strings.HasPrefix(text, form.prefix) {
			return form.by
		}
	}
	return ""
}

// isColumnLength reports whether n is a common maximum of columns. A token can have that many
// bytes by chance, and some providers' all have.
func isColumnLength(n int) bool { return n == 255 || n == 256 || n == 1000 }
