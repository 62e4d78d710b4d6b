package main

import (
	"net"
	"strings"
	"testing"
)

// connect returns a connection to an upstream.
func connect(t *testing.T) *clientConn {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		if conn, err := listener.Accept(); err == nil {
			serveConn(conn)
		}
	}()
	conn, err := dial(t.Context(), listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.close)
	return conn
}

const authorized = "Authorization: Bearer access-token-000123\r\n"

func TestUpstreamAnswersWithTheCredentialAndTheLengthOfTheRequest(t *testing.T) {
	t.Parallel()
	conn := connect(t)
	const documentOf123 = `{"id":"000123","s":"active"}`
	content := strings.Repeat("x", 100_000)
	for _, r := range []request{
		{head: []byte("GET /v1/things HTTP/1.1\r\n" + authorized + "\r\n"), start: documentOf123, length: len(documentOf123)},
		{head: []byte("GET /credential HTTP/1.1\r\n" + authorized + "\r\n"), start: "access-token-000123", length: 19},
		{
			head: []byte("POST /v1/things HTTP/1.1\r\nContent-Length: 100000\r\n" + authorized + "\r\n"),
			body: []byte(content), start: documentOf123, length: len(content),
		},
		{head: []byte("POST / HTTP/1.1\r\nContent-Length: 2\r\n" + authorized + "\r\n"), body: []byte("{}"), start: documentOf123, length: len(documentOf123)},
	} {
		if err := conn.exchange(&r); err != nil {
			t.Errorf("%q: %v", r.head, err)
		}
	}
}

func TestWrongResponsesAreErrors(t *testing.T) {
	t.Parallel()
	const get = "GET /credential HTTP/1.1\r\n"
	for name, test := range map[string]struct {
		request request
		want    string
	}{
		"no credential":      {request{head: []byte(get + "\r\n")}, "400 Bad Request"},
		"no length":          {request{head: []byte("POST / HTTP/1.1\r\n" + authorized + "\r\n")}, "411 Length Required"},
		"another credential": {request{head: []byte(get + authorized + "\r\n"), start: "access-token-000124", length: 19}, "begins with"},
		"another length":     {request{head: []byte(get + authorized + "\r\n"), start: "access-token-000123", length: 20}, "19 bytes, want 20"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err := connect(t).exchange(&test.request); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("exchange = %v, want an error with %q", err, test.want)
			}
		})
	}
}

func TestEventStreamHasOneEventAndStaysOpen(t *testing.T) {
	t.Parallel()
	conn := connect(t)
	if err := conn.open([]byte("GET /events HTTP/1.1\r\n"+authorized+"\r\n"), `{"id":"000123","s":"active"}`); err != nil {
		t.Fatal(err)
	}
	if err := conn.idle(soon()); err != nil {
		t.Error(err)
	}
}

func TestWrongEventIsAnError(t *testing.T) {
	t.Parallel()
	err := connect(t).open([]byte("GET /events HTTP/1.1\r\n"+authorized+"\r\n"), `{"id":"000124","s":"active"}`)
	if err == nil || !strings.Contains(err.Error(), "the event is") {
		t.Errorf("open = %v, want an error", err)
	}
}
