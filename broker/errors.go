package broker

import (
	"errors"
)

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
