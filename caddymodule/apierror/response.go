package apierror

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

	"github.com/tokenbroker/caddy-token-broker/broker"
)

// errorReference is the page that explains error types, by fragment.
const errorReference = "https://developers.apideck.com/errors#"

// An Error is an error as callers see it.
type Error struct {
	Status     int
	TypeName   string
	Message    string
	Detail     any           // a string, or an object
	retryAfter time.Duration // 0: no Retry-After
	Allow      string        // the Allow header of a 405
	internal   error         // logged but never shown; may be nil
}

// Error implements error.
func (e *Error) Error() string { return e.TypeName + ": " + e.Message }

// header returns the headers of the response.
func (e *Error) header() http.Header {
	h := http.Header{
		"Content-Type":     {"application/json"},
		"Cache-Control":    {"no-store"},
		broker.ErrorHeader: {e.TypeName},
	}
	if e.Status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", "Bearer") // RFC 9110 section 15.5.2
	}
	if e.Allow != "" {
		h.Set("Allow", e.Allow) // RFC 9110 section 15.5.6
	}
	if e.retryAfter > 0 {
		seconds := (e.retryAfter + time.Second - 1) / time.Second
		h.Set("Retry-After", strconv.FormatInt(int64(seconds), 10))
	}
	return h
}

// MarshalJSON returns the body of the response.
func (e *Error) MarshalJSON() ([]byte, error) {
	detail := e.Detail
	if detail == nil {
		detail = e.Message // the Apideck API always has one
	}
	return json.Marshal(struct {
		StatusCode int    `json:"status_code"`
		Error      string `json:"error"`
		TypeName   string `json:"type_name"`
		Message    string `json:"message"`
		Detail     any    `json:"detail"`
		Ref        string `json:"ref"`
	}{e.Status, http.StatusText(e.Status), e.TypeName, e.Message, detail, errorReference + strings.ToLower(e.TypeName)})
}

func (e *Error) body() []byte {
	b, err := e.MarshalJSON()
	if err != nil { // cannot happen: strings and numbers always encode
		panic(err)
	}
	return append(b, '\n')
}

// Log logs the cause that callers are not shown, if there is one.
func (e *Error) Log(ctx context.Context, logger *slog.Logger) {
	if e.internal == nil || errors.Is(e.internal, context.Canceled) {
		return
	}
	level := slog.LevelError
	if e.Status == http.StatusServiceUnavailable || e.Status == http.StatusBadGateway {
		level = slog.LevelWarn
	}
	logger.LogAttrs(ctx, level, "request failed", slog.Int("status", e.Status), slog.String("error", e.internal.Error()))
}

// Write writes the error as the response.
func (e *Error) Write(w http.ResponseWriter) {
	maps.Copy(w.Header(), e.header())
	w.WriteHeader(e.Status)
	_, _ = w.Write(e.body())
}

// Response returns the error as the response to req, for a transport.
func (e *Error) Response(req *http.Request) *http.Response {
	body := e.body()
	return &http.Response{
		Status:     fmt.Sprintf("%d %s", e.Status, http.StatusText(e.Status)),
		StatusCode: e.Status,
		Proto:      "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header:        e.header(),
		Body:          io.NopCloser(bytes.NewReader(body)),
		ContentLength: int64(len(body)),
		Request:       req,
	}
}
