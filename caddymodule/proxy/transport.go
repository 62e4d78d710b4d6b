package proxy

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddytls"

	"github.com/tokenbroker/caddy-token-broker/broker/guard"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/exchange"
)

// trustPoolNamespace is the namespace of the modules that provide trusted certificates.
const trustPoolNamespace = "tls.ca_pool.source"

// Limits of connections to downstream.
const (
	handshakeTimeout  = 10 * time.Second
	continueTimeout   = time.Second // for a 100 response, see RFC 9110 section 10.1.1
	idleTimeout       = 90 * time.Second
	idlePerHost       = 256
	pingInterval      = 15 * time.Second // over HTTP/2, where a dead connection affects many requests
	maxResponseHeader = 1 << 20
)

func (h *Handler) provisionTransports(ctx caddy.Context) error {
	var roots *x509.CertPool
	if h.TrustPoolRaw != nil {
		raw := h.TrustPoolRaw
		mod, err := ctx.LoadModule(h, "TrustPoolRaw")
		if err != nil {
			return fmt.Errorf("downstream_proxy: tls_trust_pool: %w", err)
		}
		h.TrustPoolRaw = raw // loading the module clears it
		ca, ok := mod.(caddytls.CA)
		if !ok {
			return fmt.Errorf("downstream_proxy: tls_trust_pool: %T does not provide certificates", mod)
		}
		roots = ca.CertPool()
	}
	age := time.Duration(cmp.Or(h.MaxConnectionAge, caddy.Duration(exchange.DefaultConnectionAge)))
	h.public = exchange.NewPool(age, func() *http.Transport { return newTransport(false, roots) })
	h.private = exchange.NewPool(age, func() *http.Transport { return newTransport(true, roots) })
	return nil
}

// newTransport returns a transport that dials only allowed addresses, and directly. It adds
// nothing to requests that the caller did not ask for, such as compression.
func newTransport(allowPrivate bool, roots *x509.CertPool) *http.Transport {
	dialer := guard.NewDialer(allowPrivate)
	return &http.Transport{
		Proxy: nil, // a proxy would dial, unchecked
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return exchange.Dial(ctx, dialer, network, address)
		},
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
		TLSHandshakeTimeout:    handshakeTimeout,
		ForceAttemptHTTP2:      true,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: pingInterval},
		DisableCompression:     true,
		MaxIdleConnsPerHost:    idlePerHost,
		IdleConnTimeout:        idleTimeout,
		ExpectContinueTimeout:  continueTimeout,
		MaxResponseHeaderBytes: maxResponseHeader,
	}
}
