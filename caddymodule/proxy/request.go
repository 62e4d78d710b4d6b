package proxy

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/tokenbroker/caddy-token-broker/broker"
	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/apideck"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/apierror"
)

// callOptions is what a caller wants.
type callOptions struct {
	call          broker.Call
	method        string
	authorization broker.Secret // the caller's own credential; zero: the connection's
	timeout       time.Duration
}

// readOptions authenticates before anything else, so that who cannot do that learns
// nothing.
func (h *Handler) readOptions(r *http.Request, below string) (c callOptions, err error) {
	if c.call.Application, err = h.app.Authenticate(r.Header); err != nil {
		return c, err
	}
	if c.call.Consumer, err = apideck.RequiredValue(r.Header, apideck.ConsumerHeader); err != nil {
		return c, err
	}
	if c.method, err = downstreamMethod(r); err != nil {
		return c, err
	}
	if c.call.ServiceID, err = apideck.OnlyValue(r.Header, broker.ServiceHeader); err != nil {
		return c, err
	}
	if c.call.UnifiedAPI, err = apideck.OnlyValue(r.Header, broker.UnifiedAPIHeader); err != nil {
		return c, err
	}
	authorization, err := apideck.OnlyValue(r.Header, apideck.AuthorizationHeader)
	if err != nil {
		return c, err
	}
	c.authorization = broker.NewSecret(authorization)
	c.timeout = h.timeoutOf(r)
	c.call.Target, err = readTarget(r, below)
	return c, err
}

func readTarget(r *http.Request, below string) (*connector.Target, error) {
	target, err := apideck.RequiredValue(r.Header, broker.DownstreamURLHeader)
	if err != nil {
		return nil, err
	}
	if below == "/" {
		below = ""
	}
	parsed, err := connector.ParseTarget(target, below, r.URL.RawQuery)
	if err != nil {
		return nil, &broker.InputError{
			Kind: broker.BadHeader, Field: strings.ToLower(broker.DownstreamURLHeader), Fault: err.Error(), Fix: "send an https URL",
		}
	}
	return parsed, nil
}

// downstreamMethod returns the method to use downstream: the request's own, unless the
// caller names another. In its header a method of RFC 9110 may be in lower case.
func downstreamMethod(r *http.Request) (string, error) {
	method, err := apideck.OnlyValue(r.Header, apideck.MethodHeader)
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
			return "", apierror.MethodRefused()
		}
	}
	if !httpguts.ValidHeaderFieldName(method) { // both are tokens
		return "", &broker.InputError{
			Kind: broker.BadHeader, Field: strings.ToLower(apideck.MethodHeader),
			Fault: "is not a method", Fix: "send one such as POST, or leave the header out",
		}
	}
	return method, nil
}

// timeoutOf returns the timeout that the caller has chosen, in milliseconds. One that
// makes no sense counts as none.
func (h *Handler) timeoutOf(r *http.Request) time.Duration {
	const longest = int64(time.Duration(1<<63-1) / time.Millisecond)
	value := strings.TrimSpace(r.Header.Get(apideck.TimeoutHeader))
	if value == "" { // as a rule, and the error for it would be made anew each time
		return time.Duration(h.Timeout)
	}
	ms, err := strconv.ParseInt(value, 10, 64)
	if err != nil || ms <= 0 {
		return time.Duration(h.Timeout)
	}
	return min(time.Duration(min(ms, longest))*time.Millisecond, time.Duration(h.MaxTimeout))
}
