package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
)

// A contestant is one of the handlers to compare, with its requests.
type contestant struct {
	name     string
	address  string
	requests [][]byte // wire format, one for each connection in use
}

// A turn is the result of one turn of a contestant.
type turn struct {
	requests  int
	elapsed   time.Duration
	cpu       time.Duration   // of the proxy
	latencies []time.Duration // of each request
}

func (t *turn) throughput() float64    { return float64(t.requests) / t.elapsed.Seconds() }
func (t *turn) cpuPerRequest() float64 { return float64(t.cpu) / float64(t.requests) }

// take gives c a turn: each client sends one request after another for the given time.
func take(ctx context.Context, c *contestant, s *setup, clients int, length time.Duration) (*turn, error) {
	conns := make([]*clientConn, clients)
	for i := range conns {
		conn, err := dial(ctx, c.address)
		if err != nil {
			return nil, err
		}
		defer conn.close()
		conns[i] = conn
	}
	cpu, err := cpuTimeOf(s.process.ID())
	if err != nil {
		return nil, err
	}
	start := time.Now()
	work, ctx := errgroup.WithContext(ctx)
	for i, conn := range conns {
		work.Go(func() error { return conn.drive(ctx, c, i*len(c.requests)/clients, start.Add(length)) })
	}
	err = work.Wait()
	t := &turn{elapsed: time.Since(start)}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.name, err)
	}
	after, err := cpuTimeOf(s.process.ID())
	if err != nil {
		return nil, err
	}
	t.cpu = after - cpu
	for _, conn := range conns {
		t.requests += len(conn.latencies)
		t.latencies = append(t.latencies, conn.latencies...)
	}
	return t, nil
}

// A clientConn is a keep-alive connection that does no more than it must.
type clientConn struct {
	conn      net.Conn
	reader    *bufio.Reader
	latencies []time.Duration
}

func dial(ctx context.Context, address string) (*clientConn, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return &clientConn{conn: conn, reader: bufio.NewReaderSize(conn, 16<<10)}, nil
}

func (c *clientConn) close() { _ = c.conn.Close() }

func (c *clientConn) drive(ctx context.Context, of *contestant, next int, until time.Time) error {
	if err := c.conn.SetDeadline(until.Add(30 * time.Second)); err != nil {
		return err
	}
	for before := time.Now(); before.Before(until) && ctx.Err() == nil; next++ {
		if _, err := c.exchange(of.requests[next%len(of.requests)]); err != nil {
			return err
		}
		now := time.Now()
		c.latencies = append(c.latencies, now.Sub(before))
		before = now
	}
	return nil
}

// exchange sends a request and returns the body of the response, which is valid until the next
// call. A status other than 200 is an error.
func (c *clientConn) exchange(request []byte) ([]byte, error) {
	if _, err := c.conn.Write(request); err != nil {
		return nil, err
	}
	head, err := readHead(c.reader)
	if err != nil {
		return nil, err
	}
	ok := bytes.HasPrefix(head, []byte("HTTP/1.1 200 "))
	status, _, _ := bytes.Cut(head, []byte("\r\n"))
	status = bytes.Clone(status)
	_, rest, found := bytes.Cut(head, []byte("\r\nContent-Length: "))
	digits, _, _ := bytes.Cut(rest, []byte("\r\n"))
	length, err := strconv.Atoi(string(digits))
	if !found || err != nil {
		return nil, fmt.Errorf("a response without Content-Length: %s", status)
	}
	body, err := c.reader.Peek(length)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("%s: %s", status, body)
	}
	_, err = c.reader.Discard(length)
	return body, err
}
