package apierror

import (
	"errors"
	"net"
)

// Errors that have no error of the broker behind them.
var (
	// ErrUnauthorized means that an application's id and API key do not go together.
	ErrUnauthorized = errors.New("unknown application or wrong API key")

	ErrTimedOut    = errors.New("downstream did not begin its response in time")
	ErrBadResponse = errors.New("downstream's response is malformed")
	ErrUnreadBody  = errors.New("the request's body could not be read to its end: send it again")
)

// A DownstreamError is a request that was sent and not answered as it should be.
type DownstreamError struct{ TimedOut bool }

// Error implements error.
func (e *DownstreamError) Error() string {
	if e.TimedOut {
		return "downstream did not answer in time"
	}
	return "downstream broke the connection off, or its response is malformed"
}

// Timeout implements [net.Error]; with it reverse_proxy answers 504 and not 502.
func (e *DownstreamError) Timeout() bool { return e.TimedOut }

// Temporary implements [net.Error].
func (e *DownstreamError) Temporary() bool { return false }

var _ net.Error = (*DownstreamError)(nil)
