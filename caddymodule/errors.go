package caddymodule

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/tokenbroker/caddy-token-broker/broker"
	"github.com/tokenbroker/caddy-token-broker/broker/guard"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// errorReference is where the types of errors are explained.
const errorReference = "https://developers.apideck.com/errors#"

// storeRetryAfter is what callers are told to wait while the store is unavailable.
const storeRetryAfter = 5 * time.Second

// An apiError is an error as callers of the broker see it.
type apiError struct {
	status     int
	typeName   string
	message    string
	detail     any           // a string, or an object
	retryAfter time.Duration // 0: callers are not told when to try again
	allow      string        // of a 405: the methods that there are, as the header has them
	internal   error         // logged, never shown; nil if there is nothing to log
}

// apiErrorOf maps err to what callers see of it. It is the only place that does.
func apiErrorOf(err error, now time.Time) *apiError {
	var (
		api   *apiError
		input *record.InputError
		token *record.TokenError
	)
	switch {
	case errors.As(err, &api):
		return api
	case errors.As(err, &input):
		return inputAPIError(input)
	case errors.As(err, &token):
		return tokenAPIError(token, now)
	case errors.Is(err, broker.ErrUnauthorized):
		return unauthorized("Unknown application or wrong API key")
	case errors.Is(err, record.ErrConnectorNotFound):
		return newAPIError(http.StatusNotFound, "ConnectorNotFoundError", err)
	case errors.Is(err, record.ErrConnectionNotFound):
		return newAPIError(http.StatusNotFound, "ConnectionNotFoundError", err)
	case errors.Is(err, broker.ErrConsumerNotFound):
		return newAPIError(http.StatusNotFound, "EntityNotFoundError", err)
	case errors.Is(err, record.ErrRecordTooLarge):
		return &apiError{
			status: http.StatusRequestEntityTooLarge, typeName: "RequestEntityTooLargeError",
			message: record.ErrRecordTooLarge.Error(), detail: "send less in settings or metadata", internal: err,
		}
	case errors.Is(err, broker.ErrTooManyRequests):
		e := newAPIError(http.StatusTooManyRequests, "TooManyRequestsError", err)
		e.retryAfter = time.Second
		return e
	case errors.Is(err, broker.ErrConnectionDisabled):
		return newAPIError(http.StatusForbidden, "ConnectorDisabledError", err)
	case errors.Is(err, broker.ErrHostNotAllowed), errors.Is(err, guard.ErrAddressNotAllowed):
		return newAPIError(http.StatusForbidden, "ForbiddenError", err)
	case errors.Is(err, errProxyTimedOut):
		return proxyTimedOut()
	case errors.Is(err, errUnreadBody):
		return unreadBody(err)
	case isDownstreams(err):
		return downstreamAPIError(err)
	case errors.Is(err, record.ErrStoreUnavailable), errors.Is(err, broker.ErrShuttingDown),
		errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return unavailable(err, storeRetryAfter)
	default:
		return &apiError{
			status: http.StatusInternalServerError, typeName: "InternalServerError",
			message: "Something went wrong; the log of the token broker says what", internal: err,
		}
	}
}

// Error implements error.
func (e *apiError) Error() string { return e.typeName + ": " + e.message }

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

func inputAPIError(err *record.InputError) *apiError {
	// What is wrong, without how to mend it, which is in the message.
	fault := &record.InputError{Kind: err.Kind, Field: err.Field, Fault: err.Fault}
	e := &apiError{message: err.Error(), detail: fault.Error()}
	switch err.Kind {
	case record.InputHeaderMissing:
		e.status, e.typeName = http.StatusBadRequest, "RequestHeadersValidationError"
		e.detail = "Missing Header: " + err.Field
	case record.InputHeader:
		e.status, e.typeName = http.StatusBadRequest, "RequestHeadersValidationError"
	case record.InputInvalid:
		e.status, e.typeName = http.StatusUnprocessableEntity, "InvalidStateError"
	default:
		e.status, e.typeName = http.StatusBadRequest, "RequestValidationError"
	}
	return e
}

// tokenAPIError tells a connection that has to be authorised again (401) from one
// that lacks a setting (422) and one whose token will be there later (503). Only the
// first is a reason to ask a customer to log in anew.
func tokenAPIError(err *record.TokenError, now time.Time) *apiError {
	wait := err.RetryAt.Sub(now)
	if err.RetryAt.IsZero() {
		wait = 0
	}
	if err.BadSettings {
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
func laterAdvice(class record.Class) string {
	if class == record.ClassConfiguration {
		return "whoever runs the token broker has to mend the connector's client_id, client_secret, auth_style or token_url; try again later"
	}
	return "try again later"
}

// header returns the header of the response that tells of the error.
func (e *apiError) header() http.Header {
	h := http.Header{
		"Content-Type":     {"application/json"},
		"Cache-Control":    {"no-store"},
		broker.ErrorHeader: {e.typeName},
	}
	if e.status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", "Bearer") // RFC 9110 section 15.5.2
	}
	if e.allow != "" {
		h.Set("Allow", e.allow) // RFC 9110 section 15.5.6
	}
	if e.retryAfter > 0 {
		seconds := (e.retryAfter + time.Second - 1) / time.Second
		h.Set("Retry-After", strconv.FormatInt(int64(seconds), 10))
	}
	return h
}

func (e *apiError) body() []byte {
	detail := e.detail
	if detail == nil {
		detail = e.message // every error of the Vault API has one
	}
	b, err := json.Marshal(struct {
		StatusCode int    `json:"status_code"`
		Error      string `json:"error"`
		TypeName   string `json:"type_name"`
		Message    string `json:"message"`
		Detail     any    `json:"detail"`
		Ref        string `json:"ref"`
	}{e.status, http.StatusText(e.status), e.typeName, e.message, detail, errorReference + strings.ToLower(e.typeName)})
	if err != nil { // strings and numbers always encode
		panic(err)
	}
	return append(b, '\n')
}

// log writes what callers are not shown.
func (e *apiError) log(ctx context.Context, logger *slog.Logger) {
	if e.internal == nil || errors.Is(e.internal, context.Canceled) {
		return
	}
	level := slog.LevelError
	if e.status == http.StatusServiceUnavailable || e.status == http.StatusBadGateway {
		level = slog.LevelWarn
	}
	logger.LogAttrs(ctx, level, "request failed", slog.Int("status", e.status), slog.String("error", e.internal.Error()))
}

// write sends the error to the caller.
func (e *apiError) write(w http.ResponseWriter) {
	maps.Copy(w.Header(), e.header())
	w.WriteHeader(e.status)
	_, _ = w.Write(e.body())
}

// response returns the error as what a transport got for req.
func (e *apiError) response(req *http.Request) *http.Response {
	body := e.body()
	return &http.Response{
		Status:     fmt.Sprintf("%d %s", e.status, http.StatusText(e.status)),
		StatusCode: e.status,
		Proto:      "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header:        e.header(),
		Body:          io.NopCloser(bytes.NewReader(body)),
		ContentLength: int64(len(body)),
		Request:       req,
	}
}
