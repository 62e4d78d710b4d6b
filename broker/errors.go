package broker

import (
	"errors"
)

// Errors of the operations.
var (
	// ErrConsumerNotFound means that this application has, and lately had, no connection
	// of such a consumer.
	ErrConsumerNotFound = errors.New("no such consumer")

	// ErrConnectionDisabled means that the connection was switched off.
	ErrConnectionDisabled = errors.New("the connection is disabled")

	// ErrHostNotAllowed means that a credential was about to leave for a host that
	// its connector does not allow, or over plain HTTP.
	ErrHostNotAllowed = errors.New("the connector does not allow this host")

	// ErrShuttingDown means that this process is about to end and starts no redeem.
	ErrShuttingDown = errors.New("shutting down")
)
