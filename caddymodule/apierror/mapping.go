package apierror

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/tokenbroker/caddy-token-broker/broker/guard"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// storeRetryAfter is the Retry-After while the store is unavailable.
const storeRetryAfter = 5 * time.Second

// standbyRetryAfter is the Retry-After of a connection in standby: until its next import.
const standbyRetryAfter = time.Minute

// Of returns the response for err. It is the only mapping from errors to HTTP.
func Of(err error, now time.Time) *Error {
	var (
		api   *Error
		input *record.InputError
		token *record.TokenError
	)
	switch {
	case errors.As(err, &api):
		return api
	case errors.As(err, &input):
		return inputError(input)
	case errors.Is(err, record.ErrStandby):
		e := newError(http.StatusServiceUnavailable, "StandbyError", err)
		e.retryAfter = standbyRetryAfter
		return e
	case errors.As(err, &token):
		return tokenError(token, now)
	case errors.Is(err, ErrUnauthorized):
		return Unauthorized("Unknown application or wrong API key")
	case errors.Is(err, record.ErrConnectorNotFound):
		return newError(http.StatusNotFound, "ConnectorNotFoundError", err)
	case errors.Is(err, record.ErrConnectionNotFound):
		return newError(http.StatusNotFound, "ConnectionNotFoundError", err)
	case errors.Is(err, record.ErrConsumerNotFound):
		return newError(http.StatusNotFound, "EntityNotFoundError", err)
	case errors.Is(err, record.ErrRecordTooLarge):
		return &Error{
			Status: http.StatusRequestEntityTooLarge, TypeName: "RequestEntityTooLargeError",
			Message: record.ErrRecordTooLarge.Error(), Detail: "send less in settings or metadata", internal: err,
		}
	case errors.Is(err, record.ErrTooManyRequests):
		e := newError(http.StatusTooManyRequests, "TooManyRequestsError", err)
		e.retryAfter = time.Second
		return e
	case errors.Is(err, record.ErrConnectionDisabled):
		return newError(http.StatusForbidden, "ConnectorDisabledError", err)
	case errors.Is(err, record.ErrHostNotAllowed), errors.Is(err, guard.ErrAddressNotAllowed):
		return newError(http.StatusForbidden, "ForbiddenError", err)
	case errors.Is(err, ErrTimedOut):
		return timedOut()
	case errors.Is(err, ErrUnreadBody):
		return unreadBody(err)
	case isDownstreamFault(err):
		return downstreamError(err)
	case errors.Is(err, record.ErrRefreshing):
		e := newError(http.StatusServiceUnavailable, "ServiceUnavailableError", err)
		e.retryAfter = storeRetryAfter
		return e
	case errors.Is(err, record.ErrStoreUnavailable), errors.Is(err, record.ErrShuttingDown),
		errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return unavailable(err, storeRetryAfter)
	default:
		return &Error{
			Status: http.StatusInternalServerError, TypeName: "InternalServerError",
			Message: "Internal error; see the token broker's log", internal: err,
		}
	}
}

func newError(status int, typeName string, err error) *Error {
	return &Error{Status: status, TypeName: typeName, Message: err.Error(), Detail: err.Error()}
}

// Unauthorized is the error for a request without valid authentication.
func Unauthorized(detail string) *Error {
	return &Error{
		Status: http.StatusUnauthorized, TypeName: "UnauthorizedError",
		Message: "Unauthorized Request", Detail: detail,
	}
}

func unavailable(err error, retryAfter time.Duration) *Error {
	// The cause is only logged: it may name internal systems.
	return &Error{
		Status: http.StatusServiceUnavailable, TypeName: "ServiceUnavailableError",
		Message:    "The token broker is temporarily unavailable; try again later",
		retryAfter: max(retryAfter, time.Second), internal: err,
	}
}

func timedOut() *Error {
	return &Error{
		Status: http.StatusGatewayTimeout, TypeName: "ProxyTimedOutError", Message: "The downstream request timed out",
		Detail: "downstream did not begin its response in time; x-apideck-timeout sets the limit, in milliseconds",
	}
}

func unreadBody(err error) *Error {
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok { // from Caddy's request_body
		return BodyTooLarge(tooLarge.Limit)
	}
	return newError(http.StatusBadRequest, "RequestValidationError", ErrUnreadBody)
}

// BodyTooLarge is the error for a request body of more than limit bytes.
func BodyTooLarge(limit int64) *Error {
	return &Error{
		Status: http.StatusRequestEntityTooLarge, TypeName: "RequestEntityTooLargeError",
		Message: "The body is too large", Detail: fmt.Sprintf("the limit is %d bytes", limit),
	}
}

// HeaderTooLarge is the error for a request whose line and header have more than limit bytes.
func HeaderTooLarge(limit int64) *Error {
	return &Error{
		Status: http.StatusRequestHeaderFieldsTooLarge, TypeName: "RequestHeaderFieldsTooLargeError",
		Message: "The header is too large", Detail: fmt.Sprintf("the limit is %d bytes, with the request line", limit),
	}
}

// isDownstreamFault reports whether downstream could not be reached or did not answer properly.
func isDownstreamFault(err error) bool {
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
		// The text may name internal addresses.
		e.Detail = "could not connect"
	}
	return e
}

func inputError(err *record.InputError) *Error {
	// The detail leaves out the fix, which is in the message.
	fault := &record.InputError{Kind: err.Kind, Field: err.Field, Fault: err.Fault}
	e := &Error{Message: err.Error(), Detail: fault.Error()}
	switch err.Kind {
	case record.InputHeaderMissing:
		e.Status, e.TypeName = http.StatusBadRequest, "RequestHeadersValidationError"
		e.Detail = "Missing Header: " + err.Field
	case record.InputHeader:
		e.Status, e.TypeName = http.StatusBadRequest, "RequestHeadersValidationError"
	case record.InputInvalid:
		e.Status, e.TypeName = http.StatusUnprocessableEntity, "InvalidStateError"
	default:
		e.Status, e.TypeName = http.StatusBadRequest, "RequestValidationError"
	}
	return e
}

// tokenError distinguishes a connection that must be authorised again (401) from one that
// lacks a setting (422) and one whose token is expected later (503). Only a 401 is a reason
// to ask the customer to log in again.
func tokenError(err *record.TokenError, now time.Time) *Error {
	wait := err.RetryAt.Sub(now)
	if err.RetryAt.IsZero() {
		wait = 0
	}
	if err.BadSettings {
		return &Error{Status: http.StatusUnprocessableEntity, TypeName: "InvalidStateError", Message: err.Error(), Detail: err.Err.Error()}
	}
	if !err.Parked || err.Err != nil {
		e := unavailable(err, wait)
		e.Message = fmt.Sprintf("There is no valid token for %s, and refreshing it failed (%s); %s", err.Key.Connector, failure(err), laterAdvice(err))
		e.internal = nil // the broker has logged it
		return e
	}
	debug := map[string]any{"message": err.Error()}
	if err.Code != "" {
		debug["code"] = err.Code
	}
	if err.Detail != "" {
		debug["detail"] = err.Detail
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

// failure says how a refresh failed: class, code and what the token endpoint said beyond it.
func failure(err *record.TokenError) string {
	said := string(err.Class)
	if err.Code != "" {
		said += ": " + err.WholeCode()
	}
	if err.Detail != "" {
		said += ", " + err.Detail
	}
	return said
}

// laterAdvice says what is likely wrong after a failed refresh that did not cost the grant.
func laterAdvice(err *record.TokenError) string {
	const later = "try again later"
	switch {
	case err.Class == record.ClassConfiguration:
		return "ask the operator to fix the connector's client_id, client_secret, auth_style or token_url; " + later
	case err.Code == record.CodeEndpointInDoubt:
		return "several connections were refused in a row, so the connector's OAuth client or token_url is likelier wrong than this grant; " + later
	case err.Class == record.ClassRefused:
		return "likely this grant is dead, not the connector's OAuth client wrong; " + later
	default:
		return later
	}
}

// MethodRefused is the error for TRACE and CONNECT. A TRACE returns the credential in the
// response body (RFC 9110 section 9.3.8), and a CONNECT bypasses the proxy.
func MethodRefused() error {
	return &Error{
		Status: http.StatusMethodNotAllowed, TypeName: "MethodNotAllowedError",
		Message: "This method is not allowed with a credential", Detail: "refused: TRACE, CONNECT",
		Allow: "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT", // and any method that RFC 9110 does not define
	}
}
