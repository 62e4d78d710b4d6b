package tests

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A rawServer is a downstream that records requests as they arrive on the wire. It parses
// them strictly by RFC 9112, so that smuggled requests show up as requests or errors.
type rawServer struct {
	address string

	mu       sync.Mutex
	requests []rawRequest              // guarded by mu
	answer   func(r rawRequest) string // guarded by mu; the response to r; nil: 200 without a body
}

// rawPatience is how long a rawServer waits for the rest of a request. Clients that send an
// incomplete request wait longer, so the server has recorded it by then.
const rawPatience = 4 * time.Second

// A rawRequest is a request as it arrived.
type rawRequest struct {
	line   string   // "GET / HTTP/1.1"
	header []string // lines, still folded
	body   string   // as on the wire, with its chunks and trailers
}

// newRawServer starts a rawServer on an address of this machine.
func newRawServer(t testing.TB, host string) *rawServer {
	t.Helper()
	listener, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	s := &rawServer{address: listener.Addr().String()}
	var work sync.WaitGroup
	var conns []net.Conn
	accepting := make(chan struct{})
	go func() {
		defer close(accepting)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			conns = append(conns, conn)
			work.Go(func() { s.serve(conn) })
		}
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		<-accepting
		for _, conn := range conns { // the proxy keeps them open
			_ = conn.Close()
		}
		work.Wait()
	})
	return s
}

func (s *rawServer) serve(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	reader := bufio.NewReader(conn)
	for {
		_ = conn.SetDeadline(time.Now().Add(rawPatience))
		r, err := readRaw(reader)
		if r.line == "" {
			return
		}
		s.mu.Lock()
		s.requests = append(s.requests, r)
		answer := s.answer
		s.mu.Unlock()
		if err != nil {
			return
		}
		text := "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
		if answer != nil {
			text = answer(r)
		}
		if _, err := io.WriteString(conn, text); err != nil {
			return
		}
	}
}

// readRaw reads a request. With an error it returns the part that it has read.
func readRaw(reader *bufio.Reader) (r rawRequest, err error) {
	if r.line, err = reader.ReadString('\n'); err != nil {
		return r, err
	}
	r.line = strings.TrimRight(r.line, "\r\n")
	for {
		line, err := reader.ReadString('\n')
		if err != nil {
			return r, err
		}
		if line = strings.TrimRight(line, "\r\n"); line == "" {
			break
		}
		r.header = append(r.header, line)
	}
	lengths, encodings := r.values("Content-Length"), r.values("Transfer-Encoding")
	switch {
	case len(encodings) == 0 && len(lengths) == 0:
		return r, nil
	case len(encodings) == 1 && len(lengths) == 0 && encodings[0] == "chunked":
		r.body, err = readChunks(reader)
	case len(encodings) == 0 && len(lengths) == 1:
		var n int
		if n, err = strconv.Atoi(lengths[0]); err == nil {
			body := make([]byte, n)
			_, err = io.ReadFull(reader, body)
			r.body = string(body)
		}
	default:
		err = fmt.Errorf("ambiguous framing: Content-Length %q, Transfer-Encoding %q", lengths, encodings)
	}
	return r, err
}

func readChunks(reader *bufio.Reader) (string, error) {
	var body bytes.Buffer
	for {
		line, err := reader.ReadString('\n')
		if err != nil {
			return body.String(), err
		}
		body.WriteString(line)
		size, err := strconv.ParseInt(strings.TrimSpace(line), 16, 32)
		if err != nil {
			return body.String(), err
		}
		if size == 0 {
			break
		}
		if _, err := io.CopyN(&body, reader, size+2); err != nil {
			return body.String(), err
		}
	}
	for { // the trailers
		line, err := reader.ReadString('\n')
		body.WriteString(line)
		if err != nil || strings.TrimRight(line, "\r\n") == "" {
			return body.String(), err
		}
	}
}

// values returns the values of a header. Case is ignored.
func (r rawRequest) values(name string) (values []string) {
	for _, line := range r.header {
		if field, value, _ := strings.Cut(line, ":"); strings.EqualFold(strings.TrimSpace(field), name) {
			values = append(values, strings.TrimSpace(value))
		}
	}
	return values
}

// path returns the request's target.
func (r rawRequest) path() string {
	parts := strings.SplitN(r.line, " ", 3)
	return parts[min(1, len(parts)-1)]
}

func (r rawRequest) String() string {
	return r.line + "\n" + strings.Join(r.header, "\n") + "\n\n" + r.body
}

// seen returns the requests so far.
func (s *rawServer) seen() []rawRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]rawRequest(nil), s.requests...)
}

// answers sets the function that returns responses from now on.
func (s *rawServer) answers(answer func(rawRequest) string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

// wantNone checks that the server has got no request.
func (s *rawServer) wantNone(t testing.TB) {
	t.Helper()
	for _, r := range s.seen() {
		t.Errorf("%s got a request:\n%s", s.address, r)
	}
}

// A trap counts connections to it.
type trap struct {
	address     string
	connections atomic.Int32
}

func newTrap(t testing.TB) *trap {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &trap{address: listener.Addr().String()}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			p.connections.Add(1)
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		<-done
	})
	return p
}

// sendRaw writes bytes to a listener and returns everything that it sends back.
func sendRaw(t testing.TB, address, request string) string {
	t.Helper()
	return sendCutOff(t, address, request, waitTimeout)
}

// sendCutOff is [sendRaw] for a request that may be incomplete. It gives up after patience.
func sendCutOff(t testing.TB, address, request string, patience time.Duration) string {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Error(err) // not Fatal, which only the test's goroutine may call
		return ""
	}
	defer func() { _ = conn.Close() }()
	// Requests ask for the connection to be closed.
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, request); err != nil {
		return ""
	}
	answer, _ := io.ReadAll(conn)
	return string(answer)
}

// statuses returns the final status codes in the output of a server.
func statuses(answer string) (codes []int) {
	reader := bufio.NewReader(strings.NewReader(answer))
	for {
		resp, err := http.ReadResponse(reader, nil)
		if err != nil {
			return codes
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode >= 200 {
			codes = append(codes, resp.StatusCode)
		}
	}
}
