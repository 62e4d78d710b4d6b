package caddymodule

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/tokenbroker/caddy-token-broker/broker"
	"github.com/tokenbroker/caddy-token-broker/broker/apideck"
	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// The headers by which callers of the Proxy API say what they want. Official clients
// send those that they were not given too, empty: that is the same as not sending them.
const (
	methodHeader        = "X-Apideck-Downstream-Method"
	authorizationHeader = "X-Apideck-Downstream-Authorization"
	timeoutHeader       = "X-Apideck-Timeout"
)

// And those by which they are told what has come of it.
const (
	requestIDHeader       = "X-Apideck-Request-Id"
	downstreamErrorHeader = "X-Apideck-Downstream-Error"
)

// control is what a caller wants.
type control struct {
	call          broker.ProxyCall
	method        string
	authorization secret.String // the caller's own credential; zero: the connection's
	timeout       time.Duration
}

// readControl authenticates before anything else, so that who cannot do that learns
// nothing.
func (h *DownstreamProxy) readControl(r *http.Request, below string) (c control, err error) {
	if c.call.Application, err = h.app.authenticate(r.Header); err != nil {
		return c, err
	}
	if c.call.Consumer, err = requiredValue(r.Header, consumerHeader); err != nil {
		return c, err
	}
	if c.method, err = downstreamMethod(r); err != nil {
		return c, err
	}
	if c.call.ServiceID, err = onlyValue(r.Header, apideck.ServiceHeader); err != nil {
		return c, err
	}
	if c.call.UnifiedAPI, err = onlyValue(r.Header, apideck.UnifiedAPIHeader); err != nil {
		return c, err
	}
	authorization, err := onlyValue(r.Header, authorizationHeader)
	if err != nil {
		return c, err
	}
	c.authorization = secret.New(authorization)
	c.timeout = h.timeoutOf(r)
	c.call.Target, err = readTarget(r, below)
	return c, err
}

func readTarget(r *http.Request, below string) (*connector.Target, error) {
	target, err := requiredValue(r.Header, apideck.DownstreamURLHeader)
	if err != nil {
		return nil, err
	}
	if below == "/" {
		below = ""
	}
	parsed, err := connector.ParseTarget(target, below, r.URL.RawQuery)
	if err != nil {
		return nil, &record.InputError{
			Kind: record.InputHeader, Field: strings.ToLower(apideck.DownstreamURLHeader), Fault: err.Error(), Fix: "send an https URL",
		}
	}
	return parsed, nil
}

// downstreamMethod returns the method to use downstream: the request's own, unless the
// caller names another. In its header a method of RFC 9110 may be in lower case.
func downstreamMethod(r *http.Request) (string, error) {
	method, err := onlyValue(r.Header, methodHeader)
	if err != nil {
		return "", err
	}
	switch upper := strings.ToUpper(method); upper {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete,
		http.MethodOptions, http.MethodTrace, http.MethodConnect:
		method = upper
	case "":
		method = r.Method
	}
	for _, m := range []string{r.Method, method} {
		if m == http.MethodTrace || m == http.MethodConnect {
			return "", methodRefused()
		}
	}
	if !httpguts.ValidHeaderFieldName(method) { // both are tokens
		return "", &record.InputError{
			Kind: record.InputHeader, Field: strings.ToLower(methodHeader),
			Fault: "is not a method", Fix: "send one such as POST, or leave the header out",
		}
	}
	return method, nil
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

// timeoutOf returns the timeout that the caller has chosen, in milliseconds. One that
// makes no sense counts as none.
func (h *DownstreamProxy) timeoutOf(r *http.Request) time.Duration {
	const longest = int64(time.Duration(1<<63-1) / time.Millisecond)
	value := strings.TrimSpace(r.Header.Get(timeoutHeader))
	if value == "" { // as a rule, and the error for it would be made anew each time
		return time.Duration(h.Timeout)
	}
	ms, err := strconv.ParseInt(value, 10, 64)
	if err != nil || ms <= 0 {
		return time.Duration(h.Timeout)
	}
	return min(time.Duration(min(ms, longest))*time.Millisecond, time.Duration(h.MaxTimeout))
}
