package transport

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/tokenbroker/caddy-token-broker/broker/guard"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/exchange"
)

// checkOptions refuses the options of the http transport that would bypass the checks on
// where credentials are sent.
func (t *Transport) checkOptions() error {
	tls := t.TLS
	for option, set := range map[string]bool{
		"network_proxy":                      len(t.NetworkProxyRaw) > 0,
		"forward_proxy_url":                  t.ForwardProxyURL != "",
		"proxy_protocol":                     t.ProxyProtocol != "",
		"resolvers":                          t.Resolver != nil,
		"versions 3":                         slices.Contains(t.Versions, "3"),
		"tls_insecure_skip_verify":           tls != nil && tls.InsecureSkipVerify,
		"tls_server_name with a placeholder": tls != nil && strings.Contains(tls.ServerName, "{"),
	} {
		if set {
			return fmt.Errorf("transport token_broker: %w", refusedOption(option))
		}
	}
	return nil
}

func refusedOption(option string) error {
	return fmt.Errorf("%s is not allowed here: it would bypass the checks on where credentials are sent", option)
}

// provisionTransports creates a transport that dials only public addresses, and one that
// dials private addresses too.
func (t *Transport) provisionTransports(ctx caddy.Context) error {
	var ca json.RawMessage
	if t.TLS != nil {
		ca = t.TLS.CARaw
	}
	if err := t.HTTPTransport.Provision(ctx); err != nil {
		return err
	}
	if t.TLS != nil {
		t.TLS.CARaw = ca // loading the module clears it
	}
	private, err := t.NewTransport(ctx)
	if err != nil {
		return err
	}
	if err := t.guard(t.Transport, false); err != nil {
		return err
	}
	if err := t.guard(private, true); err != nil {
		return err
	}
	age := time.Duration(cmp.Or(t.MaxConnectionAge, caddy.Duration(exchange.DefaultConnectionAge)))
	t.public = exchange.NewPool(age, func() *http.Transport { return t.likeThis(t.Transport) })
	t.private = exchange.NewPool(age, func() *http.Transport { return t.likeThis(private) })
	return nil
}

// likeThis returns a transport with the same options, and connections of its own.
func (t *Transport) likeThis(template *http.Transport) *http.Transport {
	rt := template.Clone()
	// In its place net/http's own HTTP/2: that of Caddy's transport keeps its connections in a pool
	// that the clone would share.
	rt.TLSNextProto = nil
	if rt.TLSClientConfig != nil {
		rt.TLSClientConfig.NextProtos = nil
	}
	h2, h2c := slices.Contains(t.Versions, "2"), slices.Contains(t.Versions, "h2c")
	rt.Protocols = new(http.Protocols)
	rt.Protocols.SetHTTP1(!h2c || t.TLS != nil)
	rt.Protocols.SetHTTP2(h2 || h2c)
	rt.Protocols.SetUnencryptedHTTP2(h2c)
	return rt
}

// guard makes rt dial only allowed addresses. It replaces Caddy's own dialer, which takes
// the address from the request's context, so that checking the address it is called with
// would check the wrong one.
func (t *Transport) guard(rt *http.Transport, allowPrivate bool) error {
	dialer := guard.NewDialer(allowPrivate)
	dialer.Timeout = time.Duration(t.DialTimeout)
	dialer.FallbackDelay = time.Duration(t.FallbackDelay)
	dialer.KeepAlive = time.Duration(t.KeepAlive.ProbeInterval)
	if t.LocalAddress != "" {
		address, err := caddy.ParseNetworkAddressWithDefaults(t.LocalAddress, "tcp", 0)
		if err != nil || !strings.HasPrefix(address.Network, "tcp") {
			return errors.New("transport token_broker: local_address must be a TCP address")
		}
		if dialer.LocalAddr, err = net.ResolveTCPAddr(address.Network, address.JoinHostPort(0)); err != nil {
			return fmt.Errorf("transport token_broker: local_address: %w", err)
		}
	}
	rt.Proxy = nil // the default, HTTPS_PROXY, would let a proxy dial
	rt.DialTLSContext = nil
	rt.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := exchange.Dial(ctx, dialer, network, address)
		switch {
		case err != nil:
			return nil, err
		case t.ReadTimeout > 0 || t.WriteTimeout > 0:
			return &timeoutConn{Conn: conn, read: time.Duration(t.ReadTimeout), write: time.Duration(t.WriteTimeout)}, nil
		default:
			return conn, nil
		}
	}
	// Otherwise net/http requests gzip, and decompresses it, even if the caller did not ask.
	rt.DisableCompression = t.Compression == nil || !*t.Compression
	return nil
}

// timeoutConn implements the options read_timeout and write_timeout, which limit each read
// and each write; 0 is no limit.
type timeoutConn struct {
	net.Conn
	read, write time.Duration
}

// Read implements [net.Conn].
func (c *timeoutConn) Read(b []byte) (int, error) {
	if c.read > 0 {
		if err := c.SetReadDeadline(time.Now().Add(c.read)); err != nil {
			return 0, err
		}
	}
	return c.Conn.Read(b)
}

// Write implements [net.Conn].
func (c *timeoutConn) Write(b []byte) (int, error) {
	if c.write > 0 {
		if err := c.SetWriteDeadline(time.Now().Add(c.write)); err != nil {
			return 0, err
		}
	}
	return c.Conn.Write(b)
}
