package caddymodule

import (
	"errors"
	"net"
)

// Errors that have no error of the broker behind them.
var (
	// errUnauthorized means that an application's id and API key do not go together.
	errUnauthorized = errors.New("unknown application or wrong API key")

	errProxyTimedOut = errors.New("downstream did not begin its response in time")
	errBadResponse   = errors.New("downstream's response is malformed")
	errUnreadBody    = errors.New("the request's body could not be read to its end: send it again")
)

// A downstreamError is a request that was sent and not answered as it should be.
type downstreamError struct{ timeout bool }

// Error implements error.
func (e *downstreamError) Error() string {
	if e.timeout {
		return "downstream did not answer in time"
	}
	return "downstream broke the connection off, or its response is malformed"
}

// Timeout implements [net.Error]; with it reverse_proxy answers 504 and not 502.
func (e *downstreamError) Timeout() bool { return e.timeout }

// Temporary implements [net.Error].
func (e *downstreamError) Temporary() bool { return false }

var _ net.Error = (*downstreamError)(nil)
