// Package guard keeps requests away from addresses where no third-party service can be, such as
// those of the local network and of cloud metadata services. It checks the address that a name
// resolved to, whatever the name. It knows nothing of connectors or credentials.
//
// Requests to downstream, to token endpoints and to receivers of webhooks go through it.
package guard

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"
)

// ErrAddressNotAllowed means that a name resolved to an address that [NewDialer] refuses.
// Nothing was sent.
var ErrAddressNotAllowed = errors.New("the address is not allowed")

const (
	dialTimeout         = 10 * time.Second
	tlsHandshakeTimeout = 10 * time.Second
	maxResponseHeader   = 64 << 10 // bytes
)

// specialUse lists the address ranges where no third-party service can be: IANA's IPv4 and
// IPv6 special-purpose address registries (RFC 6890), the multicast registries, and the fixed
// addresses at which clouds hand credentials to machines. The first match decides.
// ::ffff:0:0/96 is missing because IPv4-mapped addresses are unmapped first.
var specialUse = []struct {
	prefix  netip.Prefix
	private bool   // allowed with allowPrivate
	what    string // for the error text; empty: always allowed
}{
	// Metadata services, in ranges that are otherwise private or even public.
	{netip.MustParsePrefix("100.100.100.200/32"), false, "cloud metadata"}, // Alibaba Cloud, in 100.64.0.0/10
	{netip.MustParsePrefix("168.63.129.16/32"), false, "cloud metadata"},   // Azure's wire server, a public address
	{netip.MustParsePrefix("fd00:ec2::/32"), false, "cloud metadata"},      // AWS: ::254 metadata, ::23 pod identity
	{netip.MustParsePrefix("fd20:ce::254/128"), false, "cloud metadata"},   // Google Cloud

	{netip.MustParsePrefix("0.0.0.0/8"), false, "unspecified"},           // RFC 791 section 3.2; 0.0.0.0 connects to this host
	{netip.MustParsePrefix("10.0.0.0/8"), true, "private"},               // RFC 1918
	{netip.MustParsePrefix("100.64.0.0/10"), true, "carrier-grade NAT"},  // RFC 6598
	{netip.MustParsePrefix("127.0.0.0/8"), true, "loopback"},             // RFC 1122 section 3.2.1.3
	{netip.MustParsePrefix("169.254.0.0/16"), false, "link-local"},       // RFC 3927; 169.254.169.254 is everyone's metadata
	{netip.MustParsePrefix("172.16.0.0/12"), true, "private"},            // RFC 1918
	{netip.MustParsePrefix("192.0.0.0/24"), false, "IETF protocol"},      // RFC 6890; 192.0.0.192 is Oracle's metadata
	{netip.MustParsePrefix("192.0.2.0/24"), false, "documentation"},      // RFC 5737
	{netip.MustParsePrefix("192.31.196.0/24"), false, "AS112"},           // RFC 7535, a DNS sink
	{netip.MustParsePrefix("192.52.193.0/24"), false, "AMT"},             // RFC 7450
	{netip.MustParsePrefix("192.88.99.0/24"), false, "6to4 relay"},       // RFC 7526, deprecated
	{netip.MustParsePrefix("192.168.0.0/16"), true, "private"},           // RFC 1918
	{netip.MustParsePrefix("192.175.48.0/24"), false, "AS112"},           // RFC 7534, a DNS sink
	{netip.MustParsePrefix("198.18.0.0/15"), false, "benchmarking"},      // RFC 2544
	{netip.MustParsePrefix("198.51.100.0/24"), false, "documentation"},   // RFC 5737
	{netip.MustParsePrefix("203.0.113.0/24"), false, "documentation"},    // RFC 5737
	{netip.MustParsePrefix("224.0.0.0/4"), false, "multicast"},           // RFC 5771
	{netip.MustParsePrefix("240.0.0.0/4"), false, "reserved, broadcast"}, // RFC 1112 section 4, RFC 919

	{netip.MustParsePrefix("::/128"), false, "unspecified"},             // RFC 4291 section 2.5.2
	{netip.MustParsePrefix("::1/128"), true, "loopback"},                // RFC 4291 section 2.5.3
	{netip.MustParsePrefix("::/96"), false, "IPv4-compatible"},          // RFC 4291 section 2.5.5.1, embeds any IPv4 address
	{netip.MustParsePrefix("64:ff9b::/96"), false, "NAT64"},             // RFC 6052, the same
	{netip.MustParsePrefix("64:ff9b:1::/48"), false, "NAT64"},           // RFC 8215, the same
	{netip.MustParsePrefix("2002::/16"), false, "6to4"},                 // RFC 3056, the same
	{netip.MustParsePrefix("2001::/23"), false, "IETF protocol"},        // RFC 2928; Teredo 2001::/32 (RFC 4380), ORCHIDs, benchmarking
	{netip.MustParsePrefix("2001:db8::/32"), false, "documentation"},    // RFC 3849
	{netip.MustParsePrefix("3fff::/20"), false, "documentation"},        // RFC 9637
	{netip.MustParsePrefix("2620:4f:8000::/48"), false, "AS112"},        // RFC 7534, a DNS sink
	{netip.MustParsePrefix("fc00::/7"), true, "unique local"},           // RFC 4193
	{netip.MustParsePrefix("fe80::/10"), false, "link-local"},           // RFC 4291 section 2.5.6
	{netip.MustParsePrefix("ff00::/8"), false, "multicast"},             // RFC 4291 section 2.7
	{netip.MustParsePrefix("2000::/3"), true, ""},                       // the rest of global unicast
	{netip.MustParsePrefix("::/0"), false, "not global unicast (IPv6)"}, // RFC 4291 section 2.4: 100::/64, 5f00::/16, fec0::/10 and others
}

// checkAddress returns an error if the broker must not connect to addr; see [NewDialer].
func checkAddress(addr netip.Addr, allowPrivate bool) error {
	if !addr.IsValid() {
		return fmt.Errorf("%w: not an IP address", ErrAddressNotAllowed)
	}
	// A zone must not keep a prefix from matching.
	addr = addr.Unmap().WithZone("")
	for _, s := range specialUse {
		if !s.prefix.Contains(addr) {
			continue
		}
		switch {
		case s.what == "", s.private && allowPrivate:
			return nil
		case s.private:
			return fmt.Errorf("%w: %s is %s: set allow_private if that is intended", ErrAddressNotAllowed, addr, s.what)
		default:
			return fmt.Errorf("%w: %s is %s", ErrAddressNotAllowed, addr, s.what)
		}
	}
	return nil
}

// NewDialer returns a dialer that refuses special-use addresses with an error that matches
// [ErrAddressNotAllowed]. It checks each address just before it connects, after name
// resolution, so that a name cannot resolve differently the second time (DNS rebinding).
// allowPrivate permits loopback and the ranges of RFC 1918, RFC 4193 (unique local) and
// RFC 6598 (carrier-grade NAT); all others stay refused.
func NewDialer(allowPrivate bool) *net.Dialer {
	return &net.Dialer{
		Timeout: dialTimeout,
		ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
			ap, err := netip.ParseAddrPort(address)
			if err != nil { // such as a Unix socket
				return fmt.Errorf("%w: not an IP address", ErrAddressNotAllowed)
			}
			return checkAddress(ap.Addr(), allowPrivate)
		},
	}
}

// NewTransport returns a transport for requests that must not be sent twice or to a forbidden
// address: those to token endpoints and webhooks. It dials with [NewDialer], ignores the proxy
// variables of the environment, since a proxy would dial in its place, and uses HTTP/1.1 with a
// new connection for each request. Otherwise net/http resends a request when a reused
// connection was closed or an HTTP/2 peer refused the stream.
func NewTransport(allowPrivate bool) *http.Transport {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	return &http.Transport{
		Proxy:                  nil,
		DialContext:            NewDialer(allowPrivate).DialContext,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    tlsHandshakeTimeout,
		Protocols:              &protocols,
		DisableKeepAlives:      true,
		DisableCompression:     true, // limits on bodies count bytes as sent
		MaxResponseHeaderBytes: maxResponseHeader,
	}
}
