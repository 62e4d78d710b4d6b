package caddymodule

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

// apiErrorOf maps err to what callers see of it. It is the only place that does.
func apiErrorOf(err error, now time.Time) *apiError {
	var (
		api   *apiError
		input *broker.InputError
		token *broker.TokenError
	)
	switch {
	case errors.As(err, &api):
		return api
	case errors.As(err, &input):
		return inputAPIError(input)
	case errors.As(err, &token):
		return tokenAPIError(token, now)
	case errors.Is(err, errUnauthorized):
		return unauthorized("Unknown application or wrong API key")
	case errors.Is(err, broker.ErrConnectorNotFound):
		return newAPIError(http.StatusNotFound, "ConnectorNotFoundError", err)
	case errors.Is(err, broker.ErrConnectionNotFound):
		return newAPIError(http.StatusNotFound, "ConnectionNotFoundError", err)
	case errors.Is(err, broker.ErrConsumerNotFound):
		return newAPIError(http.StatusNotFound, "EntityNotFoundError", err)
	case errors.Is(err, broker.ErrRecordTooLarge):
		return &apiError{
			status: http.StatusRequestEntityTooLarge, typeName: "RequestEntityTooLargeError",
			message: broker.ErrRecordTooLarge.Error(), detail: "send less in settings or metadata", internal: err,
		}
	case errors.Is(err, broker.ErrTooManyRequests):
		e := newAPIError(http.StatusTooManyRequests, "TooManyRequestsError", err)
		e.retryAfter = time.Second
		return e
	case errors.Is(err, broker.ErrConnectionDisabled):
		return newAPIError(http.StatusForbidden, "ConnectorDisabledError", err)
	case errors.Is(err, broker.ErrHostNotAllowed), errors.Is(err, broker.ErrAddressNotAllowed):
		return newAPIError(http.StatusForbidden, "ForbiddenError", err)
	case errors.Is(err, errProxyTimedOut):
		return proxyTimedOut()
	case errors.Is(err, errUnreadBody):
		return unreadBody(err)
	case isDownstreams(err):
		return downstreamAPIError(err)
	case errors.Is(err, broker.ErrStoreUnavailable), errors.Is(err, broker.ErrShuttingDown),
		errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return unavailable(err, storeRetryAfter)
	default:
		return &apiError{
			status: http.StatusInternalServerError, typeName: "InternalServerError",
			message: "Something went wrong; the log of the token broker says what", internal: err,
		}
	}
}

func newAPIError(status int, typeName string, err error) *apiError {
	return &apiError{status: status, typeName: typeName, message: err.Error(), detail: err.Error()}
}

func unauthorized(detail string) *apiError {
	return &apiError{
		status: http.StatusUnauthorized, typeName: "UnauthorizedError",
		message: "Unauthorized Request", detail: detail,
	}
}

func unavailable(err error, retryAfter time.Duration) *apiError {
	// The cause can name the machinery behind the broker, which is not the caller's business.
	return &apiError{
		status: http.StatusServiceUnavailable, typeName: "ServiceUnavailableError",
		message:    "The token broker cannot reach what it needs to answer; try again later",
		retryAfter: max(retryAfter, time.Second), internal: err,
	}
}

func proxyTimedOut() *apiError {
	return &apiError{
		status: http.StatusGatewayTimeout, typeName: "ProxyTimedOutError", message: "The downstream request timed out",
		detail: "downstream did not begin its response in time; x-apideck-timeout is how long it has, in milliseconds",
	}
}

func unreadBody(err error) *apiError {
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok { // request_body's of Caddy
		return bodyTooLarge(tooLarge.Limit)
	}
	return newAPIError(http.StatusBadRequest, "RequestValidationError", errUnreadBody)
}

// bodyTooLarge is the error for a request whose body is longer than limit, in bytes.
func bodyTooLarge(limit int64) *apiError {
	return &apiError{
		status: http.StatusRequestEntityTooLarge, typeName: "RequestEntityTooLargeError",
		message: "The body is too large", detail: fmt.Sprintf("a body has at most %d bytes", limit),
	}
}

// isDownstreams reports whether err is of a request that was sent, or was to be.
func isDownstreams(err error) bool {
	_, dial := errors.AsType[reverseproxy.DialError](err)
	_, broken := errors.AsType[*downstreamError](err)
	return dial || broken || errors.Is(err, errBadResponse)
}

func downstreamAPIError(err error) *apiError {
	if broken, ok := errors.AsType[*downstreamError](err); ok && broken.timeout {
		return proxyTimedOut()
	}
	e := &apiError{status: http.StatusBadGateway, typeName: "ConnectorExecutionError", message: "Downstream gave no answer", detail: err.Error(), internal: err}
	if _, ok := errors.AsType[reverseproxy.DialError](err); ok {
		// The text can name addresses of the network that this runs in.
		e.detail = "no connection to it came about"
	}
	return e
}

func inputAPIError(err *broker.InputError) *apiError {
	// What is wrong, without how to mend it, which is in the message.
	fault := &broker.InputError{Kind: err.Kind, Field: err.Field, Fault: err.Fault}
	e := &apiError{message: err.Error(), detail: fault.Error()}
	switch err.Kind {
	case broker.MissingHeader:
		e.status, e.typeName = http.StatusBadRequest, "RequestHeadersValidationError"
		e.detail = "Missing Header: " + err.Field
	case broker.BadHeader:
		e.status, e.typeName = http.StatusBadRequest, "RequestHeadersValidationError"
	case broker.Contradiction:
		e.status, e.typeName = http.StatusUnprocessableEntity, "InvalidStateError"
	default:
		e.status, e.typeName = http.StatusBadRequest, "RequestValidationError"
	}
	return e
}

// tokenAPIError tells a connection that has to be authorised again (401) from one
// that lacks a setting (422) and one whose token will be there later (503). Only the
// first is a reason to ask a customer to log in anew.
func tokenAPIError(err *broker.TokenError, now time.Time) *apiError {
	wait := err.RetryAt.Sub(now)
	if err.RetryAt.IsZero() {
		wait = 0
	}
	if err.Unfit {
		return &apiError{status: http.StatusUnprocessableEntity, typeName: "InvalidStateError", message: err.Error(), detail: err.Err.Error()}
	}
	if !err.Parked || err.Err != nil {
		e := unavailable(err, wait)
		e.message = fmt.Sprintf("There is no valid token for %s now, and its refresh failed (%s); %s",
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
	return &apiError{
		status: http.StatusUnauthorized, typeName: "UnauthorizedError", message: "Unauthorized Request",
		detail: map[string]any{"type": "refresh_token_connector_error", "message": err.Error(), "debug": debug},
	}
}

// laterAdvice says what mends a failure of the class that does not cost the grant.
func laterAdvice(class broker.Class) string {
	if class == broker.ClassConfiguration {
		return "whoever runs the token broker has to mend the connector's client_id, client_secret, auth_style or token_url; try again later"
	}
	return "try again later"
}

// methodRefused is the error for methods that would show the credential or lead past
// the proxy. A TRACE comes back with the credential in its body (RFC 9110 section 9.3.8).
func methodRefused() error {
	return &apiError{
		status: http.StatusMethodNotAllowed, typeName: "MethodNotAllowedError",
		message: "No request of this method is sent with a credential", detail: "refused: TRACE, CONNECT",
		allow: "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT", // and those that RFC 9110 does not know
	}
}
