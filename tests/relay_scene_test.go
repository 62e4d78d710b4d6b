package tests

import (
	"net"
	"strings"
	"sync"
	"testing"
)

// A relay is the network between a process and a server. It can be cut.
type relay struct {
	addr   string // "http://127.0.0.1:12345"
	target string // host:port

	mu      sync.Mutex            // guards the fields below
	refuses bool                  // close connections
	passes  bool                  // pass data on
	passing chan struct{}         // closed while passes is true
	conns   map[net.Conn]struct{} // open connections, of both sides
	ended   bool
}

// newRelay starts a relay to the server at an http URL. It runs until the test ends.
func newRelay(t testing.TB, url string) *relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{
		addr: "http://" + l.Addr().String(), target: strings.TrimPrefix(url, "http://"),
		passes: true, passing: make(chan struct{}), conns: make(map[net.Conn]struct{}),
	}
	close(r.passing)
	var serving sync.WaitGroup
	t.Cleanup(func() {
		_ = l.Close()
		r.mu.Lock()
		r.ended = true
		r.mu.Unlock()
		r.refuse()
		serving.Wait()
	})
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { r.serve(conn) })
		}
	})
	return r
}

// pass restores the network. Data that was held back arrives.
func (r *relay) pass() { r.set(false, true) }

// hang accepts and keeps connections, but passes no data on.
func (r *relay) hang() { r.set(false, false) }

// refuse closes all connections, and new ones as they arrive.
func (r *relay) refuse() { r.set(true, true) }

func (r *relay) set(refuses, passes bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refuses = refuses
	if refuses {
		for conn := range r.conns {
			_ = conn.Close()
		}
	}
	switch {
	case passes == r.passes:
	case passes:
		close(r.passing)
	default:
		r.passing = make(chan struct{})
	}
	r.passes = passes
}

func (r *relay) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", r.target)
	if err != nil {
		return
	}
	defer server.Close()
	if !r.add(client, server) {
		return
	}
	defer r.remove(client, server)
	var both sync.WaitGroup
	both.Go(func() { r.copy(server, client) })
	both.Go(func() { r.copy(client, server) })
	both.Wait()
}

// copy copies data, and closes both connections when one of them ends.
func (r *relay) copy(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	b := make([]byte, 32<<10)
	for {
		n, err := from.Read(b)
		r.mu.Lock()
		passing := r.passing
		r.mu.Unlock()
		<-passing // the end of the test closes it at the latest
		if _, writeErr := to.Write(b[:n]); writeErr != nil || err != nil {
			return
		}
	}
}

func (r *relay) add(conns ...net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refuses || r.ended {
		return false
	}
	for _, conn := range conns {
		r.conns[conn] = struct{}{}
	}
	return true
}

func (r *relay) remove(conns ...net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, conn := range conns {
		delete(r.conns, conn)
	}
}
