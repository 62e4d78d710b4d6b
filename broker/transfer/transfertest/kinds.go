package transfertest

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/transfer"
)

// A Kind is a way in which a row is bad. The empty Kind is that of good rows.
type Kind string

const (
	// Duplicate is a row of the same connection as an earlier one.
	Duplicate Kind = "of the same connection as another row"

	notASCII Kind = "token is not ASCII"
)

// MinLifetime is the minimum with which the kind of tokens that expire soon is refused.
const MinLifetime = time.Hour

// An expectation is what an import says about rows of a kind.
type expectation struct {
	spoil  func(*row)                            // changes the row
	garble func(line string, isJSON bool) string // changes its line

	refused transfer.Reason // why the row is refused before it is sent; empty: it is sent
	doubt   transfer.Reason // the warning about it
	broker  string          // how the broker's message begins that refuses it; empty: it accepts the row
}

// kinds are the ways in which rows are bad.
var kinds = map[Kind]expectation{
	Duplicate: {doubt: transfer.ReasonDuplicate},
	"cut off": {refused: transfer.ReasonSyntax, garble: func(line string, isJSON bool) string {
		if isJSON {
			return line[:len(line)/2] + "\n"
		}
		return line[:strings.LastIndexByte(line, ',')] + "\n" // a column is missing
	}},
	"not UTF-8": {refused: transfer.ReasonSyntax, garble: func(line string, _ bool) string {
		return strings.Replace(line, "acme", "acm\xff", 1)
	}},
	"without a consumer":           {refused: transfer.ReasonConsumer, spoil: func(r *row) { r.consumer = "" }},
	"consumer is too long":         {refused: transfer.ReasonField, spoil: func(r *row) { r.consumer = strings.Repeat("c", 256) }},
	"consumer has a line break":    {refused: transfer.ReasonField, spoil: func(r *row) { r.consumer += "\nx" }},
	"provider is unknown":          {refused: transfer.ReasonConnector, spoil: func(r *row) { r.provider, r.connector.ServiceID = "nobody", "" }},
	"connector is not configured":  {broker: "ConnectorNotFoundError", spoil: func(r *row) { r.provider, r.connector.ServiceID = "absent", "absent" }},
	"expiry is a word":             {refused: transfer.ReasonExpiry, spoil: func(r *row) { r.expiry = "soon" }},
	"expiry is negative":           {refused: transfer.ReasonExpiry, spoil: func(r *row) { r.expiry = -5 }},
	"expires soon":                 {refused: transfer.ReasonShortLived, spoil: func(r *row) { r.expires = time.Now().Add(time.Minute).Truncate(time.Second).UTC() }},
	"encrypted by Rails":           {refused: transfer.ReasonEncrypted, spoil: func(r *row) { r.access = `{"p":"x"}` }},
	"encrypted by Laravel":         {refused: transfer.ReasonEncrypted, spoil: func(r *row) { r.refresh = "eyJpdiI6x" }},
	"encrypted with Fernet":        {refused: transfer.ReasonEncrypted, spoil: func(r *row) { r.refresh = "gAAAAAx" }},
	"access token ends in dots":    {refused: transfer.ReasonTruncated, spoil: func(r *row) { r.access += "..." }},
	"refresh token ends in dots":   {refused: transfer.ReasonTruncated, spoil: func(r *row) { r.refresh += "..." }},
	"access token of 255 bytes":    {doubt: transfer.ReasonLength, spoil: func(r *row) { r.access = (r.access + strings.Repeat("x", 255))[:255] }},
	"refresh token of 1,000 bytes": {doubt: transfer.ReasonLength, spoil: func(r *row) { r.refresh = (r.refresh + strings.Repeat("x", 1000))[:1000] }},
	"without a refresh token":      {doubt: transfer.ReasonNoRefresh, broker: "InvalidStateError", spoil: func(r *row) { r.refresh = "" }},
	notASCII:                       {broker: "InvalidStateError", spoil: func(r *row) { r.access += "é" }},
	"without tokens":               {broker: "InvalidStateError", spoil: func(r *row) { r.access, r.refresh = "", "" }},
}

// Kinds returns all kinds of bad rows.
func Kinds() []Kind { return slices.Sorted(maps.Keys(kinds)) }

// Refused returns why rows of the kind are refused before they are sent, in a format; empty if
// they are sent.
func (k Kind) Refused(format string) transfer.Reason {
	switch refused := kinds[k].refused; {
	case format != "canonical":
		return refused
	// Canonical rows are parsed as strictly as the broker does.
	case k == notASCII, refused == transfer.ReasonConsumer, refused == transfer.ReasonConnector, refused == transfer.ReasonExpiry:
		return transfer.ReasonField
	default:
		return refused
	}
}

// Doubt returns what an import warns about in rows of the kind.
func (k Kind) Doubt() transfer.Reason { return kinds[k].doubt }

// Broker returns the type of the error with which the broker refuses rows of the kind, if they
// are sent; empty if it accepts them.
func (k Kind) Broker() string { return kinds[k].broker }

// IsStored reports whether rows of the kind are stored.
func (k Kind) IsStored() bool { return kinds[k].refused == "" && kinds[k].broker == "" }
