package vaultkv

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/hashicorp/vault/api"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// A failure is a request to Vault that did not succeed. Its text has neither a body
// nor a token nor, with the path's last segments, a consumer in it.
type failure struct {
	method, path string
	status       int // 0: no answer
	conflict     bool
	repeat       bool // it may have been carried out or not; another try, at once, may tell
	why          string
	cause        error // ctx's error, or nil
	tooLarge     bool
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

// Unwrap makes every failure an ErrStoreUnavailable, but for a record that is never
// going to fit. A conflict and a 404 can be
// answers; who expects them asks isConflict and isNotFound first.
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

// shouldRepeat reports whether another try makes sense, if a request that was carried
// out already does no harm.
func shouldRepeat(err error) bool {
	var f *failure
	return errors.As(err, &f) && f.repeat
}

// unreadable is the error of an answer that is not Vault's.
func (s *Store) unreadable(r request) error {
	return &failure{
		method: r.method, path: s.policyPath(r), status: http.StatusOK,
		why: "the answer is not that of a KV version 2 engine: check what is behind the address",
	}
}

// noAnswer describes why a request was not answered.
func (s *Store) noAnswer(ctx context.Context, r request, err error) error {
	f := &failure{method: r.method, path: s.policyPath(r), cause: ctx.Err(), repeat: true}
	var operation *net.OpError
	var certificate *tls.CertificateVerificationError
	switch {
	case f.cause != nil:
		f.why = f.cause.Error()
	case errors.Is(err, context.DeadlineExceeded):
		f.why, f.repeat = fmt.Sprintf("no answer within %s", s.timeout), false
	case errors.As(err, &certificate):
		f.why, f.repeat = certificate.Error()+": check VAULT_CACERT", false
	case errors.As(err, &operation):
		f.why, f.repeat = operation.Error(), operation.Op != "dial"
	default:
		// The error may quote what was read.
		f.why = "the connection broke, or the answer is not HTTP: check the address"
	}
	return f
}

// refused describes an answer other than 2xx.
func (s *Store) refused(r request, status int, err error) *failure {
	var messages []string
	if answer := new(api.ResponseError); errors.As(err, &answer) {
		messages = answer.Errors
	}
	says := func(text string) bool {
		return slices.ContainsFunc(messages, func(m string) bool { return strings.Contains(m, text) })
	}
	f := &failure{method: r.method, path: s.policyPath(r), status: status}
	switch {
	case status < 400:
		f.why = "it redirects, which is not followed: the address must be that of the active node or forward to it"
	case status == http.StatusBadRequest && says("check-and-set parameter did not match"):
		f.conflict, f.why = true, "the record was changed"
	case status == http.StatusBadRequest && says("Upgrading from non-versioned"):
		f.why = "the secrets engine is upgrading itself; it will be ready soon"
	case status == http.StatusForbidden:
		f.why = fmt.Sprintf("the token must be valid and its policy must allow %s there", r.capabilities)
	case status == http.StatusNotFound && len(messages) > 0:
		s.engine.forget()
		f.status = http.StatusBadGateway // not an answer about the record
		f.why = fmt.Sprintf("404, no secrets engine is mounted at %s/", s.mount)
	case status == http.StatusNotFound:
		f.why = "there is no such path"
	case status == http.StatusRequestEntityTooLarge || says("too large") || says("exceeds"):
		f.tooLarge = true
		f.why = "the record is too large for it: remove settings or metadata of the connection"
	case status == http.StatusTooManyRequests:
		f.why = "a rate limit of Vault was reached; raise the quota, or wait"
	case status == http.StatusServiceUnavailable:
		f.why = "it is sealed or in maintenance: unseal it"
	case status >= 500:
		f.why, f.repeat = "it failed: see its log", status != http.StatusNotImplemented
	default:
		f.why = "it refused the request"
	}
	return f
}
