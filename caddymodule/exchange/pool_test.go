package exchange

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func TestTransportIsReplacedWhenItIsOld(t *testing.T) {
	t.Parallel()
	for age, want := range map[time.Duration]int{time.Minute: 3, 0: 1, -1: 1} {
		synctest.Test(t, func(t *testing.T) {
			created := 0
			p := NewPool(age, func() *http.Transport {
				created++
				return new(http.Transport)
			})
			first := p.Transport()
			time.Sleep(2*time.Minute + time.Second)
			synctest.Wait()
			if created != want || p.Transport() == first != (want == 1) {
				t.Errorf("maximum age %s: %d transports in two minutes, want %d", age, created, want)
			}
			p.Close()
			time.Sleep(time.Hour)
			synctest.Wait()
			if created != want {
				t.Error("a closed pool makes transports")
			}
		})
	}
}

func TestCredentialsOfConnectionsAreTold(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]bool{
		"NTLM TlRM": true, "ntlm": true, "Negotiate YII=": true, "NTLM\tTlRM": true, "credssp x": true, "Kerberos x": true, "NEGOTIATE x": true, "Bearer NTLM": false, "NTLMv2 x": false, "Basic Negotiate": false, "": false,
	} {
		if got := authenticatesConnection(http.Header{"Authorization": {value}}); got != want {
			t.Errorf("%q: got %t, want %t", value, got, want)
		}
	}
}

func TestUsersOfAConnectionAreItsCallersOwn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := NewPool(time.Minute, func() *http.Transport { return &http.Transport{ForceAttemptHTTP2: true} })
		defer p.Close()
		callers := func(local net.Addr, port int) context.Context {
			ctx := context.WithValue(t.Context(), http.LocalAddrContextKey, local)
			return context.WithValue(ctx, caddyhttp.OriginalRequestCtxKey, http.Request{RemoteAddr: fmt.Sprintf("192.0.2.1:%d", port)})
		}
		one, other := &net.TCPAddr{Port: 80}, &net.TCPAddr{Port: 80}
		mine := p.boundFor(callers(one, 1), "jane")
		if p.boundFor(callers(one, 1), "jane") != mine {
			t.Error("a handshake goes over two transports")
		}
		if !mine.Protocols.HTTP1() || mine.Protocols.HTTP2() || mine.DisableKeepAlives {
			t.Errorf("got %v, want HTTP/1.1 with connections that stay", mine.Protocols)
		}
		for name, rt := range map[string]*http.Transport{
			"the usual requests": p.Transport(), "another record": p.boundFor(callers(one, 1), "john"), "another connection": p.boundFor(callers(other, 1), "jane"),
			"another peer": p.boundFor(callers(one, 2), "jane"), "no connection": p.boundFor(t.Context(), "jane"),
		} {
			if rt == mine {
				t.Errorf("%s: shared", name)
			}
		}
		if unknown := p.boundFor(t.Context(), "jane"); !unknown.DisableKeepAlives {
			t.Error("without a caller's connection, connections stay")
		}
		time.Sleep(time.Minute + time.Second)
		synctest.Wait()
		if len(p.users) > 0 || p.boundFor(callers(one, 1), "jane") == mine {
			t.Errorf("%d transports outlive the maximum age", len(p.users))
		}
	})
}

func TestHeaderLimitCountsTheWholeHeader(t *testing.T) {
	t.Parallel()
	req, err := http.NewRequest(http.MethodGet, "/path?"+strings.Repeat("q", 100), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = http.Header{"A": {strings.Repeat("v", 50), strings.Repeat("w", 50)}, strings.Repeat("N", 100): {""}}
	const size = 3 + 5 + 100 + 4 + 2*(1+50+4) + 100 + 4
	for limit, fails := range map[int64]bool{size: false, size - 1: true, -1: false} {
		if err := CheckHeader(req, limit); err != nil != fails {
			t.Errorf("a header of %d bytes with the limit %d: got %v", size, limit, err)
		}
	}
}

func BenchmarkCheckHeader(b *testing.B) {
	req, err := http.NewRequest(http.MethodGet, "/v1/contacts?limit=100", nil)
	if err != nil {
		b.Fatal(err)
	}
	for i := range 12 {
		req.Header.Set(fmt.Sprintf("X-Header-%d", i), "some value of a usual length")
	}
	for b.Loop() {
		if err := CheckHeader(req, 64<<10); err != nil {
			b.Fatal(err)
		}
	}
}
