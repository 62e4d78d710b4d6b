package connectionsapi

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/tokenbroker/caddy-token-broker/caddymodule/apierror"
)

// refuseLed refuses requests that a client was led to send, by a redirect of downstream or a
// page of another site: the API is for servers, and for scripts of the same origin. It is a
// second line of defence, since many clients send none of these headers.
func refuseLed(r *http.Request) error {
	var why string
	switch {
	case slices.ContainsFunc(r.Header["Referer"], isOfProxy):
		why = "Referer is a URL of /proxy, so a redirect has led here"
	case !allIn(r.Header["Sec-Fetch-Site"], "same-origin"):
		why = "Sec-Fetch-Site is not same-origin"
	case !allIn(r.Header["Sec-Fetch-Mode"], "cors", "same-origin"): // Node.js sends cors
		why = "Sec-Fetch-Mode is not that of a script"
	case !allIn(r.Header["Sec-Fetch-Dest"], "empty"):
		why = "Sec-Fetch-Dest is not that of a script"
	default:
		return nil
	}
	return &apierror.Error{
		Status: http.StatusForbidden, TypeName: "ForbiddenError",
		Message: "This request was not meant for the connections API", Detail: why,
	}
}

func allIn(values []string, allowed ...string) bool {
	return !slices.ContainsFunc(values, func(value string) bool { return !slices.Contains(allowed, value) })
}

// isOfProxy reports whether the path of a URL may be /proxy or below it. A site can have that
// below any prefix.
func isOfProxy(referer string) bool {
	u, err := url.Parse(referer)
	return err == nil && slices.Contains(strings.Split(u.Path, "/"), "proxy")
}
