package vaultkv

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/hashicorp/vault/api"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// A failure is a request to Vault that did not succeed. Its text contains no body, no
// token, and no consumer: the last segments of the path are left out.
type failure struct {
	method, path string
	status       int  // HTTP status, 0 if there was no response
	conflict     bool // the compare-and-set failed
	tooLarge     bool // Vault will never accept the record
	repeat       bool // may have been applied; an immediate second attempt may succeed
	why          string
	cause        error // the context's error, or nil
}

func (f *failure) Error() string {
	answer := "did not answer"
	if f.status != 0 {
		answer = fmt.Sprintf("answered %d to", f.status)
	}
	kind := record.ErrStoreUnavailable
	if f.tooLarge {
		kind = record.ErrRecordTooLarge
	}
	return fmt.Sprintf("%v: Vault %s %s %s: %s", kind, answer, f.method, f.path, f.why)
}

// Unwrap makes every failure an ErrStoreUnavailable, except for a record that is too
// large. Callers for which a conflict or a 404 is a normal result check isConflict and
// isNotFound first.
func (f *failure) Unwrap() []error {
	if f.tooLarge {
		return []error{record.ErrRecordTooLarge}
	}
	if f.cause != nil {
		return []error{record.ErrStoreUnavailable, f.cause}
	}
	return []error{record.ErrStoreUnavailable}
}

func isConflict(err error) bool {
	var f *failure
	return errors.As(err, &f) && f.conflict
}

func isNotFound(err error) bool { return hasStatus(err, http.StatusNotFound) }

func isForbidden(err error) bool { return hasStatus(err, http.StatusForbidden) }

func hasStatus(err error, status int) bool {
	var f *failure
	return errors.As(err, &f) && f.status == status
}

// shouldRepeat reports whether to repeat the request, provided that it is harmless to
// apply it twice.
func shouldRepeat(err error) bool {
	var f *failure
	return errors.As(err, &f) && f.repeat
}

// unreadable returns the error for a response that a KV version 2 engine would not send.
// It wraps no error of the decoder, which could quote the response.
func (s *Store) unreadable(r request) error {
	return &failure{
		method: r.method, path: s.policyPath(r), status: http.StatusOK,
		why: "the response is not that of a KV version 2 engine: check the address",
	}
}

// noAnswer returns the error for a request that got no response.
func (s *Store) noAnswer(ctx context.Context, r request, err error) error {
	f := &failure{method: r.method, path: s.policyPath(r), cause: ctx.Err(), repeat: true}
	var operation *net.OpError
	var certificate *tls.CertificateVerificationError
	switch {
	case f.cause != nil:
		f.why = f.cause.Error()
	case errors.Is(err, context.DeadlineExceeded):
		f.why, f.repeat = fmt.Sprintf("no response within %s", s.timeout), false
	case errors.As(err, &certificate):
		f.why, f.repeat = certificate.Error()+": check VAULT_CACERT", false
	case errors.As(err, &operation):
		f.why, f.repeat = operation.Error(), operation.Op != "dial"
	default:
		// err is left out: it may quote the response.
		f.why = "the connection broke, or the response is not HTTP: check the address"
	}
	return f
}

// refused returns the error for a response with a status other than 2xx.
func (s *Store) refused(r request, status int, body []byte) *failure {
	var answer api.ErrorResponse
	if json.Unmarshal(body, &answer) != nil {
		answer.Errors = []string{string(body)}
	}
	messages := answer.Errors
	says := func(text string) bool {
		return slices.ContainsFunc(messages, func(m string) bool { return strings.Contains(m, text) })
	}
	f := &failure{method: r.method, path: s.policyPath(r), status: status}
	switch {
	case status < 400:
		f.why = "redirects are not followed: use the address of the active node, or of a node that forwards to it"
	case status == http.StatusBadRequest && says("check-and-set parameter did not match"):
		f.conflict, f.why = true, "the record was changed by another process"
	case status == http.StatusBadRequest && says("Upgrading from non-versioned"):
		f.why = "the secrets engine is upgrading itself; it will be ready soon"
	case status == http.StatusForbidden:
		f.why = fmt.Sprintf("the token must be valid, and its policy must allow %s on this path", r.capabilities)
	case status == http.StatusNotFound && len(messages) > 0:
		s.engine.forget()
		f.status = http.StatusBadGateway // a 404 would mean that there is no record
		f.why = fmt.Sprintf("404, no secrets engine is mounted at %s/", s.mount)
	case status == http.StatusNotFound:
		f.why = "the path does not exist"
	case status == http.StatusRequestEntityTooLarge || says("too large") || says("exceeds"):
		f.tooLarge = true
		f.why = "the record is too large: remove settings or metadata of the connection"
	case status == http.StatusTooManyRequests:
		f.why = "the rate limit quota was reached: raise it, or wait"
	case status == http.StatusServiceUnavailable:
		f.why = "Vault is sealed or in maintenance: unseal it"
	case status >= 500:
		f.why, f.repeat = "Vault failed: see its log", status != http.StatusNotImplemented
	default:
		f.why = "Vault refused the request"
	}
	return f
}
