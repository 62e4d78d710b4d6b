package guard

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest/dnstest"
)

func TestNameThatChangesItsAddressIsCheckedWhenDialled(t *testing.T) {
	t.Parallel()
	for _, target := range []string{"127.0.0.1", "::1", "169.254.169.254", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "10.0.0.1"} {
		t.Run(target, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			conn, err := net.ListenPacket("udp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			// The first lookup of a name returns a public address, all later ones the target.
			dnstest.Serve(t, conn, func(lookup int) netip.Addr {
				if lookup == 1 {
					return netip.MustParseAddr("93.184.216.34")
				}
				return netip.MustParseAddr(target)
			})
			dialer := NewDialer(false)
			dialer.Resolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
				var dialer net.Dialer
				return dialer.DialContext(ctx, "udp", conn.LocalAddr().String())
			}}

			// A check before dialling would accept this answer.
			addresses, err := dialer.Resolver.LookupNetIP(ctx, "ip4", "rebind.test")
			if err != nil || len(addresses) != 1 || checkAddress(addresses[0].Unmap(), false) != nil {
				t.Fatalf("the first answer is %v, %v; want a public address", addresses, err)
			}
			dialled, err := dialer.DialContext(ctx, "tcp", "rebind.test:80")
			if err == nil {
				_ = dialled.Close()
			}
			if !errors.Is(err, ErrAddressNotAllowed) {
				t.Errorf("dialling: got %v, want ErrAddressNotAllowed", err)
			}

			// The same for the transport of token endpoints and webhooks.
			transport := NewTransport(false)
			transport.DialContext = dialer.DialContext
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://rebind.test/token", nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := transport.RoundTrip(req)
			if err == nil {
				_ = resp.Body.Close()
			}
			if !errors.Is(err, ErrAddressNotAllowed) {
				t.Errorf("a request: got %v, want ErrAddressNotAllowed", err)
			}
		})
	}
}

// FuzzAddressesThatEmbedIPv4 checks that no IPv6 form of an IPv4 address is allowed, since
// translators and tunnels on the way would unwrap it, and that the mapped form is treated like
// the address itself.
func FuzzAddressesThatEmbedIPv4(f *testing.F) {
	for _, s := range []string{"127.0.0.1", "169.254.169.254", "8.8.8.8", "10.0.0.1", "0.0.0.0"} {
		a := netip.MustParseAddr(s).As4()
		f.Add(a[0], a[1], a[2], a[3])
	}
	f.Fuzz(func(t *testing.T, a, b, c, d byte) {
		v4 := netip.AddrFrom4([4]byte{a, b, c, d})
		for name, form := range map[string][16]byte{
			"IPv4-compatible": {12: a, b, c, d},
			"NAT64":           {0, 0x64, 0xff, 0x9b, 12: a, b, c, d},
			"local NAT64":     {0, 0x64, 0xff, 0x9b, 0, 1, 12: a, b, c, d},
			"6to4":            {0x20, 0x02, a, b, c, d},
			"Teredo":          {0x20, 0x01, 0, 0, 12: ^a, ^b, ^c, ^d},
			"translated":      {8: 0xff, 0xff, 0, 0, a, b, c, d},
		} {
			addr := netip.AddrFrom16(form)
			if addr == netip.IPv6Loopback() { // the IPv4-compatible form of 0.0.0.1
				continue
			}
			if checkAddress(addr, true) == nil {
				t.Errorf("%s, the %s form of %s, is allowed", addr, name, v4)
			}
		}
		for _, allowPrivate := range []bool{false, true} {
			mapped := netip.AddrFrom16(v4.As16())
			if (checkAddress(mapped, allowPrivate) == nil) != (checkAddress(v4, allowPrivate) == nil) {
				t.Errorf("%s and %s differ", mapped, v4)
			}
		}
	})
}
