// Package apierror maps errors to the HTTP responses that callers get.
package apierror

import (
	"errors"
	"net"
)

// Errors of the adapter itself. [Of] maps them, like those of package broker.
var (
	// ErrUnauthorized means that the application id and API key do not match. It does not
	// say which is wrong.
	ErrUnauthorized = errors.New("unknown application or wrong API key")

	// ErrTimedOut means that downstream did not begin its response in time.
	ErrTimedOut = errors.New("downstream did not begin its response in time")

	// ErrBadResponse means that downstream sent a response that cannot be passed on.
	ErrBadResponse = errors.New("downstream's response is malformed")

	// ErrUnreadBody means that reading the caller's request body failed.
	ErrUnreadBody = errors.New("the request body could not be read in full: send the request again")
)

// A DownstreamError means that a request was sent but no valid response arrived.
type DownstreamError struct{ TimedOut bool }

// Error implements error.
func (e *DownstreamError) Error() string {
	if e.TimedOut {
		return "downstream did not answer in time"
	}
	return "downstream closed the connection or sent a malformed response"
}

// Timeout implements [net.Error]. It makes reverse_proxy answer 504 instead of 502.
func (e *DownstreamError) Timeout() bool { return e.TimedOut }

// Temporary implements [net.Error].
func (e *DownstreamError) Temporary() bool { return false }

// Interface guards
var _ net.Error = (*DownstreamError)(nil)
