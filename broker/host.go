package broker

import (
	"fmt"
	"net/http"
	"net/url"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/engine"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// spellHost gives the request's host its canonical spelling, so that the name that is checked
// is the one that is dialled, verified and sent as Host. It does not check the host: one that
// cannot be spelled is not allowed either.
func spellHost(req *http.Request) {
	host, err := connector.CanonicalHost(req.URL.Scheme, req.URL.Host)
	if err != nil {
		return
	}
	if req.Host == req.URL.Host {
		req.Host = host
	} else if own, err := connector.CanonicalHost(req.URL.Scheme, req.Host); err == nil {
		req.Host = own
	}
	req.URL.Host = host
}

// checkHostHeader returns [record.ErrHostNotAllowed] unless the connection may send its
// credential to the host that the Host header names.
func checkHostHeader(req *http.Request, cfg *record.Config, conn *record.Connector, settings map[string]any) error {
	if req.Host == "" || req.Host == req.URL.Host {
		return nil
	}
	named := &url.URL{Scheme: req.URL.Scheme, Host: req.Host}
	if named.Hostname() == req.URL.Hostname() { // the port may be left out
		return nil
	}
	if err := engine.AllowsHost(cfg, conn, named, settings); err != nil {
		return fmt.Errorf("the Host header: %w", err)
	}
	return nil
}
