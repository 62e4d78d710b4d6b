package transfer

import "fmt"

// A Reason classes a [RowError], for reports that count them.
type Reason string

// The reasons for which a row is refused before it is sent, or doubtful.
const (
	ReasonSyntax      Reason = "the row cannot be read"
	ReasonField       Reason = "a field is missing or wrong"
	ReasonConsumer    Reason = "the consumer is missing"
	ReasonConnector   Reason = "the connector is unknown"
	ReasonExpiry      Reason = "the expiry cannot be read"
	ReasonEncrypted   Reason = "a value is encrypted"
	ReasonTruncated   Reason = "a value is truncated"
	ReasonShortLived  Reason = "the token expires too soon"
	ReasonUnsupported Reason = "this kind of credential is not supported"
	ReasonDamaged     Reason = "the credentials cannot be decrypted"

	ReasonLength    Reason = "a token may be truncated"
	ReasonNoRefresh Reason = "the row has no refresh token"
	ReasonClient    Reason = "the grant belongs to another OAuth client"
	ReasonNoClient  Reason = "the connector is configured without an OAuth client"
	ReasonDuplicate Reason = "the connection is in the file more than once"
)

// A RowError says why a row is refused, or what is doubtful about it. Its text names the field
// and the fix, never a value.
type RowError struct {
	Reason Reason
	Text   string
}

// Error implements error.
func (p *RowError) Error() string { return p.Text }

func rowError(reason Reason, format string, args ...any) *RowError {
	return &RowError{Reason: reason, Text: fmt.Sprintf(format, args...)}
}
