package main

import (
	"net"
	"net/http/httptest"
	"strings"
	"testing"
)

// throughBare returns a connection to the reference in front of an upstream at a URL.
func throughBare(t *testing.T, target, certificate string) *clientConn {
	t.Helper()
	b, err := newBare(target, certificate)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(b)
	t.Cleanup(server.Close)
	t.Cleanup(b.transport.CloseIdleConnections)
	conn, err := dial(t.Context(), server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.close)
	return conn
}

// listen returns a listener that serve has, and a new certificate for it.
func listen(t *testing.T, serve func(listener net.Listener, certificate string)) (address, certificate string) {
	t.Helper()
	certificate = t.TempDir()
	if err := createCertificate(certificate); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go serve(listener, certificate)
	return listener.Addr().String(), certificate
}

func TestBareForwardsToAnUpstreamWithHTTP2(t *testing.T) {
	t.Parallel()
	address, certificate := listen(t, func(listener net.Listener, certificate string) { _ = serveSecure(listener, certificate) })
	conn := throughBare(t, "https://"+address, certificate)
	credential, content := accessToken(0), strings.Repeat("x", 100_000)
	for _, r := range []request{
		{head: []byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n"), start: document(credential), length: len(document(credential))},
		{head: []byte("GET /credential HTTP/1.1\r\nHost: a\r\n\r\n"), start: credential, length: len(credential)},
		{
			head: []byte("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n"), body: []byte(content),
			start: document(credential), length: len(content),
		},
	} {
		if err := conn.exchange(&r); err != nil {
			t.Errorf("%q: %v", r.head, err)
		}
	}
}

func TestBareForwardsEventsAsTheyArrive(t *testing.T) {
	t.Parallel()
	address, certificate := listen(t, func(listener net.Listener, _ string) {
		if conn, err := listener.Accept(); err == nil {
			serveConn(conn)
		}
	})
	conn := throughBare(t, "http://"+address, certificate)
	t.Cleanup(conn.close) // before the server waits for its connections
	if err := conn.open([]byte("GET /events HTTP/1.1\r\nHost: a\r\n\r\n"), document(accessToken(0))); err != nil {
		t.Fatal(err)
	}
	if err := conn.idle(soon()); err != nil {
		t.Error(err)
	}
}
