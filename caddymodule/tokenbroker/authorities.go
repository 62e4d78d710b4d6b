package tokenbroker

import (
	"net"
	"net/netip"
	"os"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/tokenbroker/caddy-token-broker/caddymodule/fields"
)

// Authorities returns the authorities of this server. They are known once the configuration
// has started.
func (a *App) Authorities() *fields.Authorities { return a.authorities }

// findServers collects what this server listens on, and the names of its sites, and tells the
// transports what is in front of them.
func (a *App) findServers() {
	ports := portsOf(caddy.DefaultAdminListen)
	var names []string
	if mod, err := a.ctx.AppIfConfigured("http"); err == nil {
		if app, ok := mod.(*caddyhttp.App); ok {
			for _, server := range app.Servers {
				for _, address := range server.Listen {
					ports = append(ports, portsOf(address)...)
				}
				names = append(names, hostsOf(server.Routes)...)
			}
			tellRoutings(app.Servers)
		}
	}
	a.authorities.Set(ports, append(names, machine()...))
}

// machine returns the names and addresses of this machine, as far as it knows them.
func machine() []string {
	var names []string
	if name, err := os.Hostname(); err == nil {
		names = append(names, name)
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return names
	}
	for _, address := range addresses {
		if prefix, err := netip.ParsePrefix(address.String()); err == nil {
			host := prefix.Addr().String()
			if prefix.Addr().Is6() {
				host = "[" + host + "]"
			}
			names = append(names, host)
		}
	}
	return names
}

// maxPortRange is how many ports of one listener's range are looked at.
const maxPortRange = 1000

func portsOf(listen string) []uint16 {
	address, err := caddy.ParseNetworkAddress(listen)
	if err != nil || address.IsUnixNetwork() || address.IsFdNetwork() {
		return nil
	}
	var ports []uint16
	for i := range min(address.PortRangeSize(), maxPortRange) {
		ports = append(ports, uint16(address.StartPort+i))
	}
	return ports
}

// hostsOf returns the host names that the routes match.
func hostsOf(routes caddyhttp.RouteList) []string {
	var names []string
	for _, route := range routes {
		for _, handler := range route.Handlers {
			if sub, ok := handler.(*caddyhttp.Subroute); ok {
				names = append(names, hostsOf(sub.Routes)...)
			}
		}
		for _, set := range route.MatcherSets {
			for _, matcher := range set {
				switch hosts := matcher.(type) {
				case *caddyhttp.MatchHost:
					names = append(names, *hosts...)
				case caddyhttp.MatchHost:
					names = append(names, hosts...)
				}
			}
		}
	}
	return names
}
