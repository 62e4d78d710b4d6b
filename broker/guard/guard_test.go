package guard

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
)

func TestWhichAddressesMayBeDialled(t *testing.T) {
	t.Parallel()
	const (
		never   = iota // refused even with allow_private
		private        // only with allow_private
		always
	)
	tests := []struct {
		addr string
		want int
	}{
		{"8.8.8.8", always},
		{"1.1.1.1", always},
		{"172.15.255.255", always},
		{"172.32.0.0", always},
		{"9.255.255.255", always},
		{"11.0.0.0", always},
		{"100.63.255.255", always},
		{"100.128.0.0", always},
		{"198.17.255.255", always},
		{"198.20.0.0", always},
		{"223.255.255.255", always},
		{"168.63.129.15", always},
		{"2606:4700:4700::1111", always},
		{"2a00::1", always},
		{"2001:200::1", always},
		{"::ffff:8.8.8.8", always},

		{"127.0.0.1", private},
		{"127.255.255.254", private},
		{"10.0.0.1", private},
		{"172.16.0.1", private},
		{"172.31.255.255", private},
		{"192.168.1.1", private},
		{"100.64.0.1", private},
		{"100.127.255.255", private},
		{"::1", private},
		{"fc00::1", private},
		{"fd12:3456::1", private},
		{"::ffff:127.0.0.1", private},
		{"::ffff:10.0.0.1", private},
		{"::ffff:7f00:1", private},

		{"169.254.169.254", never},
		{"169.254.170.2", never},
		{"::ffff:169.254.169.254", never},
		{"::ffff:a9fe:a9fe", never},
		{"100.100.100.200", never},
		{"192.0.0.192", never},
		{"168.63.129.16", never},
		{"::ffff:168.63.129.16", never},
		{"fd00:ec2::254", never},
		{"fd00:ec2::23", never},
		{"fd20:ce::254", never},
		{"0.0.0.0", never},
		{"0.1.2.3", never},
		{"192.0.0.8", never},
		{"192.0.2.1", never},
		{"192.88.99.1", never},
		{"198.18.0.1", never},
		{"198.19.255.255", never},
		{"198.51.100.1", never},
		{"203.0.113.1", never},
		{"224.0.0.1", never},
		{"239.255.255.255", never},
		{"240.0.0.1", never},
		{"255.255.255.255", never},
		{"192.31.196.1", never},
		{"192.52.193.1", never},
		{"192.175.48.1", never},
		{"::", never},
		{"::ffff:0.0.0.0", never},
		{"::127.0.0.1", never},
		{"::a9fe:a9fe", never},
		{"::8.8.8.8", never},
		{"64:ff9b::7f00:1", never},
		{"64:ff9b::808:808", never},
		{"64:ff9b:1::1", never},
		{"2002:7f00:1::", never},
		{"2002:a9fe:a9fe::1", never},
		{"2001::1", never},
		{"2001:0:4136:e378::1", never},
		{"2001:10::1", never},
		{"2001:2::1", never},
		{"2001:db8::1", never},
		{"3fff::1", never},
		{"100::1", never},
		{"5f00::1", never},
		{"fe80::1", never},
		{"fe80::1%eth0", never},
		{"fec0::1", never},
		{"ff02::1", never},
		{"2620:4f:8000::1", never},
		{"4000::1", never},
		{"::fffe:7f00:1", never},
		{"0:0:0:0:ffff:0:127.0.0.1", never},
	}
	for _, tt := range tests {
		addr := netip.MustParseAddr(tt.addr)
		for _, allowPrivate := range []bool{false, true} {
			err := checkAddress(addr, allowPrivate)
			want := tt.want == always || tt.want == private && allowPrivate
			if got := err == nil; got != want {
				t.Errorf("checkAddress(%s, %t) = %v, want allowed %t", tt.addr, allowPrivate, err, want)
			}
			if err != nil && !errors.Is(err, ErrAddressNotAllowed) {
				t.Errorf("checkAddress(%s, %t) = %v, want ErrAddressNotAllowed", tt.addr, allowPrivate, err)
			}
		}
	}
	if err := checkAddress(netip.Addr{}, true); !errors.Is(err, ErrAddressNotAllowed) {
		t.Errorf("checkAddress(no address) = %v, want ErrAddressNotAllowed", err)
	}
}

// FuzzCheckAddress compares the table with net/netip's notion of a public address.
func FuzzCheckAddress(f *testing.F) {
	for _, s := range []string{"127.0.0.1", "::ffff:169.254.169.254", "fe80::1%eth0", "2002:7f00:1::", "8.8.8.8", "fd00:ec2::254"} {
		b, _ := netip.MustParseAddr(s).MarshalBinary()
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var addr netip.Addr
		if addr.UnmarshalBinary(b) != nil || !addr.IsValid() {
			return
		}
		public, private := checkAddress(addr, false) == nil, checkAddress(addr, true) == nil
		if public && !private {
			t.Errorf("%s is allowed, but not with allow_private", addr)
		}
		if mapped := netip.AddrFrom16(addr.As16()); (checkAddress(mapped, true) == nil) != private {
			t.Errorf("%s and %s differ", addr, mapped)
		}
		plain := addr.Unmap().WithZone("")
		if public && (!plain.IsGlobalUnicast() || plain.IsPrivate()) {
			t.Errorf("%s is allowed as public", addr)
		}
		if private && (plain.IsUnspecified() || plain.IsMulticast() || plain.IsLinkLocalUnicast()) {
			t.Errorf("%s is allowed as private", addr)
		}
	})
}

func TestDialerChecksTheAddressThatANameResolvedTo(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	_, port, _ := net.SplitHostPort(ln.Addr().String())

	_, err = NewDialer(false).DialContext(t.Context(), "tcp", "localhost:"+port)
	if !errors.Is(err, ErrAddressNotAllowed) {
		t.Errorf("dialling localhost: got %v, want ErrAddressNotAllowed", err)
	}
	conn, err := NewDialer(true).DialContext(t.Context(), "tcp", "127.0.0.1:"+port)
	if err != nil {
		t.Fatalf("dialling loopback with allow_private: %v", err)
	}
	_ = conn.Close()
	if _, err := NewDialer(true).DialContext(t.Context(), "unix", "/nonexistent.sock"); !errors.Is(err, ErrAddressNotAllowed) {
		t.Errorf("dialling a Unix socket: got %v, want ErrAddressNotAllowed", err)
	}
}

func TestTransportSpeaksHTTP1OverAConnectionPerRequest(t *testing.T) {
	t.Parallel()
	remotes := make(chan string, 2)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		remotes <- r.Proto + " " + r.RemoteAddr
	}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()

	transport := NewTransport(true)
	if transport.Proxy != nil { // the request below would not show it: Go uses no proxy for loopback
		t.Error("it uses the proxies of the environment")
	}
	transport.TLSClientConfig.RootCAs = srv.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	for range 2 {
		req, _ := http.NewRequestWithContext(context.Background(), http.MethodPost, srv.URL, strings.NewReader("x"))
		resp, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
	}
	first, second := <-remotes, <-remotes
	if !strings.HasPrefix(first, "HTTP/1.1 ") {
		t.Errorf("got %s, want HTTP/1.1", first)
	}
	if first == second {
		t.Errorf("both requests used one connection, %s", first)
	}

	resp, err := NewTransport(false).RoundTrip(httptest.NewRequest(http.MethodGet, srv.URL, nil))
	if !errors.Is(err, ErrAddressNotAllowed) {
		t.Errorf("without allow_private: got %v, want ErrAddressNotAllowed", err)
	}
	if err == nil {
		_ = resp.Body.Close()
	}
}
