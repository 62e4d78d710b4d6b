package proxy

import (
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/tokenbroker/caddy-token-broker/caddymodule/argument"
)

func init() {
	httpcaddyfile.RegisterHandlerDirective("downstream_proxy", parse)
	httpcaddyfile.RegisterDirectiveOrder("downstream_proxy", httpcaddyfile.Before, "respond") // and reverse_proxy
}

// parse parses the directive.
func parse(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	proxy := &Handler{}
	return proxy, proxy.UnmarshalCaddyfile(h.Dispenser)
}

// UnmarshalCaddyfile parses the directive. Syntax:
//
//	downstream_proxy [<matcher>] {
//		timeout        <duration>
//		max_timeout    <duration>
//		max_connection_age <duration> | off
//		tls_trust_pool <module>
//	}
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // "downstream_proxy"
	if d.NextArg() {
		return d.ArgErr()
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		var err error
		switch d.Val() {
		case "timeout":
			err = argument.Duration(d, &h.Timeout)
		case "max_timeout":
			err = argument.Duration(d, &h.MaxTimeout)
		case "max_connection_age":
			err = argument.DurationOrOff(d, &h.MaxConnectionAge)
		case "tls_trust_pool":
			err = h.parseTrustPool(d)
		default:
			return d.Errf("unrecognized subdirective of downstream_proxy: %s", d.Val())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (h *Handler) parseTrustPool(d *caddyfile.Dispenser) error {
	if h.TrustPoolRaw != nil {
		return d.Err("tls_trust_pool is already set")
	}
	if !d.NextArg() {
		return d.ArgErr()
	}
	name := d.Val()
	pool, err := caddyfile.UnmarshalModule(d, trustPoolNamespace+"."+name)
	if err != nil {
		return err
	}
	h.TrustPoolRaw = caddyconfig.JSONModuleObject(pool, "provider", name, nil)
	return nil
}

// Interface guards
var _ caddyfile.Unmarshaler = (*Handler)(nil)
