package caddymodule

import (
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	httpcaddyfile.RegisterHandlerDirective("downstream_proxy", parseDownstreamProxy)
	httpcaddyfile.RegisterDirectiveOrder("downstream_proxy", httpcaddyfile.Before, "respond") // and reverse_proxy
}

// parseDownstreamProxy reads the directive.
func parseDownstreamProxy(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	proxy := &DownstreamProxy{}
	return proxy, proxy.UnmarshalCaddyfile(h.Dispenser)
}

// UnmarshalCaddyfile reads the directive. Syntax:
//
//	downstream_proxy [<matcher>] {
//		timeout        <duration>
//		max_timeout    <duration>
//		tls_trust_pool <module>
//	}
func (h *DownstreamProxy) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // "downstream_proxy"
	if d.NextArg() {
		return d.ArgErr()
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		var err error
		switch d.Val() {
		case "timeout":
			err = setDuration(d, &h.Timeout)
		case "max_timeout":
			err = setDuration(d, &h.MaxTimeout)
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

func (h *DownstreamProxy) parseTrustPool(d *caddyfile.Dispenser) error {
	if h.TrustPoolRaw != nil {
		return d.Err("tls_trust_pool is given twice")
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
var _ caddyfile.Unmarshaler = (*DownstreamProxy)(nil)
