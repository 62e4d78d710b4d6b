package record

import (
	"errors"
	"fmt"
	"time"
)

// Errors of the broker and its stores. Wrapped, their texts name the connection and what to
// do about it, never a credential.
var (
	// ErrNotFound means that the [Store] has no record of the key.
	ErrNotFound = errors.New("no such record")

	// ErrConflict means that the stored revision is not the one that the caller read. Read
	// the record again and retry.
	ErrConflict = errors.New("the record was changed by another writer")

	// ErrStoreUnavailable means that the store is unreachable or timed out. The operation
	// may or may not have taken effect; retry later.
	ErrStoreUnavailable = errors.New("the store is unavailable")

	// ErrRecordTooLarge means that the store accepts no record of that size. Retrying does
	// not help.
	ErrRecordTooLarge = errors.New("the record is too large for the store")

	// ErrUnchanged is returned by [Record.Apply] if the record already is as the update
	// asks. It need not be saved.
	ErrUnchanged = errors.New("the record would not change")

	// ErrConnectorNotFound means that the service is not configured as a connector.
	ErrConnectorNotFound = errors.New("no such connector")

	// ErrConnectionNotFound means that this consumer of this application has no
	// connection to the service; see [ConnectionNotFound].
	ErrConnectionNotFound = errors.New("no such connection")
)

// ConnectionNotFound returns [ErrConnectionNotFound] for the connection of key. Its text
// omits the consumer, whom the caller knows.
func ConnectionNotFound(key Key) error {
	return fmt.Errorf("%w to %s: import it first", ErrConnectionNotFound, key.Connector)
}

// An InputKind classifies bad input.
type InputKind int

// The kinds of bad input.
const (
	InputSyntax        InputKind = iota + 1 // not JSON, or a member is unknown or has the wrong type
	InputHeaderMissing                      // a required header is absent
	InputHeader                             // a header has an invalid value
	InputInvalid                            // well-formed, but a field is missing or contradicts another
)

// An InputError says which field of a caller's input is wrong and how to correct it.
// Nothing was stored.
type InputError struct {
	Kind  InputKind
	Field string // path of the member, such as "credentials.expires_in", or name of the header
	Fault string // such as "must not be negative"; empty means "is required"
	Fix   string // such as "send the lifetime in seconds"
}

// Error implements error.
func (e *InputError) Error() string {
	fault := e.Fault
	if fault == "" {
		fault = "is required"
	}
	msg := fault
	if e.Field != "" {
		msg = e.Field + " " + fault
	}
	if e.Fix != "" {
		msg += ": " + e.Fix
	}
	return msg
}

// A TokenError means that no valid token is available.
type TokenError struct {
	Key   Key
	Class Class  // of the failure
	Code  string // OAuth error code (RFC 6749 section 5.2), or one of the Code constants
	Err   error  // the cause, such as [ErrStoreUnavailable]; may be nil

	// Detail is what the token endpoint said beyond the code, such as a request id.
	Detail string
	// Parked means that the customer must authorise the connection again.
	Parked bool
	// Hopeless means that this is only likely, and that the refresh token is still tried now
	// and then.
	Hopeless bool
	// Reason is the code of the refusal because of which the connector is paused.
	Reason string
	// GivenUp means that background retries have ended. The next caller that needs a token
	// causes another attempt.
	GivenUp bool
	// BadSettings means that a setting of the connection cannot be used; Err says which.
	BadSettings bool
	// FirstRefresh means that the first refresh after an import failed.
	FirstRefresh bool
	// Ambiguous means that an earlier attempt may have spent the refresh token.
	Ambiguous bool

	// RetryAt is the earliest time of the next attempt, zero if there is none. The attempt
	// for a parked connection needs an import or a validation.
	RetryAt time.Time
	// FailedAt is the time of the last failed attempt.
	FailedAt time.Time
	// CredentialsExpireAt is when the credentials will be cleared, zero for never.
	CredentialsExpireAt time.Time
}

// Error implements error.
func (e *TokenError) Error() string {
	msg := fmt.Sprintf("no valid token for connection %s: %s", e.Key, e.Class)
	if e.Code != "" {
		msg += " (" + e.WholeCode() + ")"
	}
	switch {
	case e.Code != CodeInvalidGrant:
	case e.Ambiguous:
		msg += "; an earlier attempt, whose outcome is unknown, may have spent the refresh token"
	case e.FirstRefresh:
		msg += "; this was the first refresh since the import: " +
			"the grant may have been refreshed elsewhere since it was exported"
	}
	if e.Parked {
		msg += "; authorise the connection again and import it"
	}
	if e.Err != nil {
		msg += ": " + e.Err.Error()
	}
	return msg
}

// WholeCode returns the code. If that is not the token endpoint's own answer to this
// connection, it also says which code it follows from.
func (e *TokenError) WholeCode() string {
	if e.Reason == "" {
		return e.Code
	}
	return e.Code + " because of " + e.Reason
}

// Unwrap returns Err.
func (e *TokenError) Unwrap() error { return e.Err }

// ErrDamaged means that a part of the store cannot be read. It comes with
// [ErrStoreUnavailable], and the store has logged it.
var ErrDamaged = errors.New("store is damaged")

// ErrTooManyRequests means that a connection or an application has reached its limit of
// requests in progress, see [Limits]. Nothing was sent.
var ErrTooManyRequests = errors.New("too many requests are in progress")

// Errors of the operations.
var (
	// ErrConsumerNotFound means that the application has no connection of the consumer, and
	// has had none lately.
	ErrConsumerNotFound = errors.New("no such consumer")

	// ErrConnectionDisabled means that the connection is switched off.
	ErrConnectionDisabled = errors.New("the connection is disabled")

	// ErrHostNotAllowed means that a credential would have been sent to a host that the
	// connector does not allow, or over plain HTTP.
	ErrHostNotAllowed = errors.New("the connector does not allow this host")

	// ErrShuttingDown means that the broker is closing and begins no refresh.
	ErrShuttingDown = errors.New("shutting down")
)
