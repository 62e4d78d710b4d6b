package apierror

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/tokenbroker/caddy-token-broker/broker"
)

// storeRetryAfter is what callers are told to wait while the store is unavailable.
const storeRetryAfter = 5 * time.Second

// Of maps err to what callers see of it. It is the only place that does.
func Of(err error, now time.Time) *Error {
	var (
		api   *Error
		input *broker.InputError
		token *broker.TokenError
	)
	switch {
	case errors.As(err, &api):
		return api
	case errors.As(err, &input):
		return inputError(input)
	case errors.As(err, &token):
		return tokenError(token, now)
	case errors.Is(err, ErrUnauthorized):
		return Unauthorized("Unknown application or wrong API key")
	case errors.Is(err, broker.ErrConnectorNotFound):
		return newError(http.StatusNotFound, "ConnectorNotFoundError", err)
	case errors.Is(err, broker.ErrConnectionNotFound):
		return newError(http.StatusNotFound, "ConnectionNotFoundError", err)
	case errors.Is(err, broker.ErrConsumerNotFound):
		return newError(http.StatusNotFound, "EntityNotFoundError", err)
	case errors.Is(err, broker.ErrRecordTooLarge):
		return &Error{
			Status: http.StatusRequestEntityTooLarge, TypeName: "RequestEntityTooLargeError",
			Message: broker.ErrRecordTooLarge.Error(), Detail: "send less in settings or metadata", internal: err,
		}
	case errors.Is(err, broker.ErrTooManyRequests):
		e := newError(http.StatusTooManyRequests, "TooManyRequestsError", err)
		e.retryAfter = time.Second
		return e
	case errors.Is(err, broker.ErrConnectionDisabled):
		return newError(http.StatusForbidden, "ConnectorDisabledError", err)
	case errors.Is(err, broker.ErrHostNotAllowed), errors.Is(err, broker.ErrAddressNotAllowed):
		return newError(http.StatusForbidden, "ForbiddenError", err)
	case errors.Is(err, ErrTimedOut):
		return timedOut()
	case errors.Is(err, ErrUnreadBody):
		return unreadBody(err)
	case isDownstreams(err):
		return downstreamError(err)
	case errors.Is(err, broker.ErrStoreUnavailable), errors.Is(err, broker.ErrShuttingDown),
		errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return unavailable(err, storeRetryAfter)
	default:
		return &Error{
			Status: http.StatusInternalServerError, TypeName: "InternalServerError",
			Message: "Something went wrong; the log of the token broker says what", internal: err,
		}
	}
}

func newError(status int, typeName string, err error) *Error {
	return &Error{Status: status, TypeName: typeName, Message: err.Error(), Detail: err.Error()}
}

func Unauthorized(detail string) *Error {
	return &Error{
		Status: http.StatusUnauthorized, TypeName: "UnauthorizedError",
		Message: "Unauthorized Request", Detail: detail,
	}
}

func unavailable(err error, retryAfter time.Duration) *Error {
	// The cause can name the machinery behind the broker, which is not the caller's business.
	return &Error{
		Status: http.StatusServiceUnavailable, TypeName: "ServiceUnavailableError",
		Message:    "The token broker cannot reach what it needs to answer; try again later",
		retryAfter: max(retryAfter, time.Second), internal: err,
	}
}

func timedOut() *Error {
	return &Error{
		Status: http.StatusGatewayTimeout, TypeName: "ProxyTimedOutError", Message: "The downstream request timed out",
		Detail: "downstream did not begin its response in time; x-apideck-timeout is how long it has, in milliseconds",
	}
}

func unreadBody(err error) *Error {
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok { // request_body's of Caddy
		return BodyTooLarge(tooLarge.Limit)
	}
	return newError(http.StatusBadRequest, "RequestValidationError", ErrUnreadBody)
}

// BodyTooLarge is the error for a request whose body is longer than limit, in bytes.
func BodyTooLarge(limit int64) *Error {
	return &Error{
		Status: http.StatusRequestEntityTooLarge, TypeName: "RequestEntityTooLargeError",
		Message: "The body is too large", Detail: fmt.Sprintf("a body has at most %d bytes", limit),
	}
}

// isDownstreams reports whether err is of a request that was sent, or was to be.
func isDownstreams(err error) bool {
	_, dial := errors.AsType[reverseproxy.DialError](err)
	_, broken := errors.AsType[*DownstreamError](err)
	return dial || broken || errors.Is(err, ErrBadResponse)
}

func downstreamError(err error) *Error {
	if broken, ok := errors.AsType[*DownstreamError](err); ok && broken.TimedOut {
		return timedOut()
	}
	e := &Error{Status: http.StatusBadGateway, TypeName: "ConnectorExecutionError", Message: "Downstream gave no answer", Detail: err.Error(), internal: err}
	if _, ok := errors.AsType[reverseproxy.DialError](err); ok {
		// The text can name addresses of the network that this runs in.
		e.Detail = "no connection to it came about"
	}
	return e
}

func inputError(err *broker.InputError) *Error {
	// What is wrong, without how to mend it, which is in the message.
	fault := &broker.InputError{Kind: err.Kind, Field: err.Field, Fault: err.Fault}
	e := &Error{Message: err.Error(), Detail: fault.Error()}
	switch err.Kind {
	case broker.MissingHeader:
		e.Status, e.TypeName = http.StatusBadRequest, "RequestHeadersValidationError"
		e.Detail = "Missing Header: " + err.Field
	case broker.BadHeader:
		e.Status, e.TypeName = http.StatusBadRequest, "RequestHeadersValidationError"
	case broker.Contradiction:
		e.Status, e.TypeName = http.StatusUnprocessableEntity, "InvalidStateError"
	default:
		e.Status, e.TypeName = http.StatusBadRequest, "RequestValidationError"
	}
	return e
}

// tokenError tells a connection that has to be authorised again (401) from one
// that lacks a setting (422) and one whose token will be there later (503). Only the
// first is a reason to ask a customer to log in anew.
func tokenError(err *broker.TokenError, now time.Time) *Error {
	wait := err.RetryAt.Sub(now)
	if err.RetryAt.IsZero() {
		wait = 0
	}
	if err.Unfit {
		return &Error{Status: http.StatusUnprocessableEntity, TypeName: "InvalidStateError", Message: err.Error(), Detail: err.Err.Error()}
	}
	if !err.Parked || err.Err != nil {
		e := unavailable(err, wait)
		e.Message = fmt.Sprintf("There is no valid token for %s now, and its refresh failed (%s); %s",
			err.Key.Connector, strings.TrimSuffix(string(err.Class)+": "+err.Code, ": "), laterAdvice(err.Class))
		e.internal = nil // the broker has logged it
		return e
	}
	debug := map[string]any{"message": err.Error()}
	if err.Code != "" {
		debug["code"] = err.Code
	}
	if !err.CredentialsExpireAt.IsZero() {
		debug["credentials_expire_at_ms"] = err.CredentialsExpireAt.UnixMilli()
	}
	if !err.RetryAt.IsZero() {
		debug["retry_after_ms"] = err.RetryAt.UnixMilli()
		debug["cooldown_remaining_ms"] = max(wait, 0).Milliseconds()
	}
	return &Error{
		Status: http.StatusUnauthorized, TypeName: "UnauthorizedError", Message: "Unauthorized Request",
		Detail: map[string]any{"type": "refresh_token_connector_error", "message": err.Error(), "debug": debug},
	}
}

// laterAdvice says what mends a failure of the class that does not cost the grant.
func laterAdvice(class broker.Class) string {
	if class == broker.ClassConfiguration {
		return "whoever runs the token broker has to mend the connector's client_id, client_secret, auth_style or token_url; try again later"
	}
	return "try again later"
}

// MethodRefused is the error for methods that would show the credential or lead past
// the proxy. A TRACE comes back with the credential in its body (RFC 9110 section 9.3.8).
func MethodRefused() error {
	return &Error{
		Status: http.StatusMethodNotAllowed, TypeName: "MethodNotAllowedError",
		Message: "No request of this method is sent with a credential", Detail: "refused: TRACE, CONNECT",
		Allow: "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT", // and those that RFC 9110 does not know
	}
}
