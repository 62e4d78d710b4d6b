package record

import (
	"errors"
	"fmt"
	"time"
)

// Errors of the broker and its stores. Their texts name the connection and what to
// do about it, never a credential.
var (
	// ErrNotFound is a [Store]'s answer for a key that it has no record of.
	ErrNotFound = errors.New("no such record")

	// ErrConflict is a [Store]'s refusal to save over a revision other than the one
	// that the caller had read. Re-read and try again.
	ErrConflict = errors.New("the record was changed by somebody else")

	// ErrStoreUnavailable means that the store could not be asked, or did not answer.
	// It may be another time; nothing is known about the record meanwhile.
	ErrStoreUnavailable = errors.New("the store is unavailable")

	// ErrRecordTooLarge means that the store does not take a record of that size, ever.
	ErrRecordTooLarge = errors.New("the record is too large for the store")

	// ErrConnectorNotFound means that the configuration has no connector block for
	// the service.
	ErrConnectorNotFound = errors.New("no such connector")

	// ErrConnectionNotFound means that this consumer of this application has no
	// connection to the service.
	ErrConnectionNotFound = errors.New("no such connection")
)

// An InputKind says what is wrong with something that a caller sent.
type InputKind int

// The kinds of bad input.
const (
	InputSyntax        InputKind = iota + 1 // not JSON, or a member of the wrong type or unknown
	InputHeaderMissing                      // a required header is absent
	InputHeader                             // a header has an impossible value
	InputInvalid                            // well-formed, but a field is missing or contradicts another
)

// An InputError says which field of a caller's input is wrong and how to mend it.
// Nothing was stored.
type InputError struct {
	Kind  InputKind
	Field string // "credentials.expires_in", or a header's name
	Fault string // "must not be negative"; empty: "is required"
	Fix   string // "send the lifetime in seconds"
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

// A TokenError means that there is no valid token to be had now.
type TokenError struct {
	Key   Key
	Class Class  // what kind of failure stands in the way
	Code  string // the OAuth error code (RFC 6749 section 5.2) or the broker's own word for it

	// Parked: no further attempt is made by itself.
	Parked bool
	// Unfit: what the connection has in its settings cannot be used; Err says which.
	BadSettings bool
	// FirstRedeem: the failure came with the first redeem after an import.
	FirstRefresh bool

	// RetryAt is when the next attempt may be made, zero if there will be none. With a
	// parked connection somebody has to ask for it: an import, or a validation.
	RetryAt time.Time
	// FailedAt is when the last attempt failed.
	FailedAt time.Time
	// CredentialsExpireAt is when the credentials will be cleared, zero if they won't.
	CredentialsExpireAt time.Time

	Err error // what stood in the way, e.g. ErrStoreUnavailable; may be nil

	GivenUp bool // the background job has ended; only demand leads to another attempt
}

// Error implements error.
func (e *TokenError) Error() string {
	msg := fmt.Sprintf("no valid token for connection %s: %s", e.Key, e.Class)
	if e.Code != "" {
		msg += " (" + e.Code + ")"
	}
	if e.FirstRefresh && e.Code == CodeInvalidGrant {
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

// Unwrap returns what stood in the way.
func (e *TokenError) Unwrap() error { return e.Err }

// ConnectionNotFound is [ErrConnectionNotFound] for a caller, who knows the customer.
func ConnectionNotFound(key Key) error {
	return fmt.Errorf("%w to %s: import it first", ErrConnectionNotFound, key.Connector)
}
