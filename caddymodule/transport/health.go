package transport

import (
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
)

// isHealthCheck reports whether req is an active health check of reverse_proxy. Its context
// has no variables, since no server received it. (It does have a server, the one that the
// proxy was provisioned for.)
func isHealthCheck(req *http.Request) bool {
	return req.Context().Value(caddyhttp.VarsCtxKey) == nil
}

// checkHealth sends a health check without a credential, as it has no consumer, but only to
// addresses where a credential could be sent.
func (t *Transport) checkHealth(out *http.Request) (*http.Response, error) {
	if err := checkUpstream(out); err != nil {
		return nil, err
	}
	id, _ := connector.ParseID(t.Connector) // with a placeholder: the zero ID, no connector
	return t.pool(t.app.AllowsPrivate(id)).Transport().RoundTrip(out)
}
