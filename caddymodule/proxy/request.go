package proxy

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
	"github.com/tokenbroker/caddy-token-broker/caddymodule/apierror"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/exchange"
)

// callOptions is what the headers of a request ask for.
type callOptions struct {
	call          broker.ProxyCall
	method        string        // to use downstream
	replaces      bool          // authorization replaces the connection's credential
	authorization secret.String // the caller's own credential; zero: none
	timeout       time.Duration // until downstream begins its response
}

// readOptions authenticates before it reads the rest, so that an unauthenticated caller learns nothing.
func (h *Handler) readOptions(r *http.Request, below string) (c callOptions, err error) {
	if err := exchange.CheckHeader(r, h.app.MaxRequestHeader()); err != nil {
		return c, err
	}
	if c.call.Application, err = h.app.Authenticate(r.Header); err != nil {
		return c, err
	}
	if c.call.Consumer, err = apideck.RequiredValue(r.Header, apideck.ConsumerHeader); err != nil {
		return c, err
	}
	if c.method, err = downstreamMethod(r); err != nil {
		return c, err
	}
	if c.call.ServiceID, err = apideck.OnlyValue(r.Header, apideck.ServiceHeader); err != nil {
		return c, err
	}
	if c.call.UnifiedAPI, err = apideck.OnlyValue(r.Header, apideck.UnifiedAPIHeader); err != nil {
		return c, err
	}
	authorization, err := apideck.OnlyValue(r.Header, apideck.AuthorizationHeader)
	if err != nil {
		return c, err
	}
	c.replaces = authorization != ""
	if !strings.EqualFold(authorization, apideck.NoAuthorization) {
		c.authorization = secret.New(authorization)
	}
	c.timeout = h.timeoutOf(r)
	c.call.Target, err = readTarget(r, below)
	return c, err
}

func readTarget(r *http.Request, below string) (*connector.Target, error) {
	target, err := apideck.RequiredValue(r.Header, apideck.DownstreamURLHeader)
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

// downstreamMethod returns the method to use downstream: that of the request, unless a
// header names another. The header may give methods of RFC 9110 in lower case.
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
	if !httpguts.ValidHeaderFieldName(method) { // methods and field names are both tokens
		return "", &record.InputError{
			Kind: record.InputHeader, Field: strings.ToLower(apideck.MethodHeader),
			Fault: "is not a method", Fix: "send a method such as POST, or omit the header",
		}
	}
	return method, nil
}

// timeoutOf returns the timeout that the caller chose, in milliseconds. An invalid one counts
// as absent, unlike other headers: a wrong timeout is no reason to refuse the request.
func (h *Handler) timeoutOf(r *http.Request) time.Duration {
	const longest = int64(time.Duration(1<<63-1) / time.Millisecond)
	value := strings.TrimSpace(r.Header.Get(apideck.TimeoutHeader))
	if value == "" { // most requests have none; avoid allocating a parse error
		return time.Duration(h.Timeout)
	}
	ms, err := strconv.ParseInt(value, 10, 64)
	if err != nil || ms <= 0 {
		return time.Duration(h.Timeout)
	}
	return min(time.Duration(min(ms, longest))*time.Millisecond, time.Duration(h.MaxTimeout))
}
