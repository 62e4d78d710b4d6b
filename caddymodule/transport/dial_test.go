package transport

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/tokenbroker/caddy-token-broker/broker/guard"
)

// testTransport returns the http transport of a [Transport], which dials only public
// addresses.
func testTransport(t *testing.T) *Transport {
	t.Helper()
	transport := &Transport{HTTPTransport: new(reverseproxy.HTTPTransport)}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	if err := transport.provisionTransports(ctx); err != nil {
		t.Fatal(err)
	}
	return transport
}

func TestAddressThatIsDialledIsChecked(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	transport := &Transport{HTTPTransport: new(reverseproxy.HTTPTransport)}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	defer cancel()
	if err := transport.provisionTransports(ctx); err != nil {
		t.Fatal(err)
	}
	for name, rt := range map[string]*http.Transport{"public": transport.public.Transport(), "private": transport.private.Transport()} {
		if rt.Proxy != nil {
			t.Errorf("%s: goes by proxies of the environment", name)
		}
		if !rt.DisableCompression {
			t.Errorf("%s: asks for gzip by itself", name)
		}
	}
	if _, err := transport.public.Transport().DialContext(context.Background(), "tcp", listener.Addr().String()); !errors.Is(err, guard.ErrAddressNotAllowed) {
		t.Errorf("public: got %v, want ErrAddressNotAllowed", err)
	}
	conn, err := transport.private.Transport().DialContext(context.Background(), "tcp", listener.Addr().String())
	if err != nil {
		t.Fatalf("private: %v", err)
	}
	conn.Close()
	if _, err := transport.private.Transport().DialContext(context.Background(), "tcp", "169.254.169.254:80"); !errors.Is(err, guard.ErrAddressNotAllowed) {
		t.Errorf("metadata: got %v, want ErrAddressNotAllowed", err)
	}
	listener.Close()
	_, err = transport.private.Transport().DialContext(context.Background(), "tcp", listener.Addr().String())
	if _, ok := errors.AsType[reverseproxy.DialError](err); !ok {
		t.Errorf("nobody there: got %v (%T), want a DialError", err, err)
	}
}

func TestReadsAndWritesHaveDeadlines(t *testing.T) {
	t.Parallel()
	here, there := net.Pipe()
	defer there.Close()
	conn := &timeoutConn{Conn: here, read: time.Millisecond, write: time.Millisecond}
	defer conn.Close()
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("reading: got %v", err)
	}
	if _, err := conn.Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("writing: got %v", err)
	}
	conn.read, conn.write = time.Hour, time.Hour
	go func() { _, _ = io.Copy(there, there) }()
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Errorf("writing: %v", err)
	}
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		t.Errorf("reading: %v", err)
	}
}
