package export

import (
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/transfer"
)

// RowOf returns the row that an import makes the same connection from, as far as an import can:
// an imported connection is enabled, begins without failures, and knows no earlier refresh tokens.
// The row shares memory with the record.
func RowOf(rec *record.Record) *transfer.Row {
	return &transfer.Row{
		App: rec.Key.Application, Connector: rec.Key.Connector,
		Import: record.Import{
			ConsumerID: rec.Key.Consumer, Credentials: credentialsOf(rec.Credentials),
			Settings: rec.Settings, Metadata: rec.Metadata,
		},
	}
}

// credentialsOf returns the credentials of an import. They give an expiry only as expires_at, and
// a lifetime only without it: an import that has both issued_at and expires_in adds them up.
func credentialsOf(c *record.Credentials) *record.ImportCredentials {
	if c == nil {
		return nil
	}
	imp := &record.ImportCredentials{
		AccessToken: c.AccessToken, RefreshToken: c.RefreshToken, IssuedAt: c.IssuedAt, ExpiresAt: c.Expiry,
	}
	if c.IssuedAt.IsZero() && c.Expiry.IsZero() && c.Lifetime > 0 {
		lifetime := c.Lifetime.Truncate(time.Second)
		imp.ExpiresIn = &lifetime
	}
	if left := c.RefreshExpiry.Sub(c.IssuedAt); !c.IssuedAt.IsZero() && !c.RefreshExpiry.IsZero() && left > 0 {
		imp.RefreshExpiresIn = left.Truncate(time.Second)
	}
	return imp
}
