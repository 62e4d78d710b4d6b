package broker

import (
	"context"
	"errors"

	"github.com/tokenbroker/caddy-token-broker/broker/internal/tokenendpoint"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
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

// errorType returns a word of low cardinality for err, as OpenTelemetry's
// error.type wants it.
func errorType(err error) string {
	var input *record.InputError
	var token *record.TokenError
	switch {
	case errors.As(err, &input):
		return "invalid_input"
	case errors.Is(err, record.ErrStoreUnavailable):
		return "store_unavailable"
	case errors.As(err, &token):
		return string(token.Class)
	case errors.Is(err, record.ErrNotFound), errors.Is(err, record.ErrConnectionNotFound):
		return "connection_not_found"
	case errors.Is(err, record.ErrConnectorNotFound):
		return "connector_not_found"
	case errors.Is(err, ErrConsumerNotFound):
		return "consumer_not_found"
	case errors.Is(err, tokenendpoint.ErrRevokeLater), errors.Is(err, tokenendpoint.ErrRevokeRefused), errors.Is(err, tokenendpoint.ErrRevokeURL), errors.Is(err, errNoRevokeTarget):
		return "not_revoked"
	case errors.Is(err, record.ErrConflict):
		return "conflict"
	case errors.Is(err, ErrConnectionDisabled):
		return "connection_disabled"
	case errors.Is(err, ErrHostNotAllowed):
		return "host_not_allowed"
	case errors.Is(err, context.Canceled):
		return "canceled"
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	default:
		return "_OTHER"
	}
}
