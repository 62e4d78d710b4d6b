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
	process  int // its process id
	address  string
	profiles string    // address of its profiles
	requests []request // one for each connection in use
}

// A request is a request in wire format, with what its response must be.
type request struct {
	head   []byte
	body   []byte
	start  string // of the response's body
	length int    // of the response's body
}

// A turn is the result of one turn of a contestant.
type turn struct {
	requests   int
	elapsed    time.Duration
	cpu        time.Duration   // of the contestant's process
	storeCPU   time.Duration   // of the store's process, if there is one
	commandCPU time.Duration   // of the command import, if the contestant is one
	latencies  []time.Duration // of each request
}

func (t *turn) throughput() float64    { return float64(t.requests) / t.elapsed.Seconds() }
func (t *turn) cpuPerRequest() float64 { return float64(t.cpu) / float64(t.requests) }

func (t *turn) storeCPUPerRequest() float64 { return float64(t.storeCPU) / float64(t.requests) }

func (t *turn) commandCPUPerRequest() float64 { return float64(t.commandCPU) / float64(t.requests) }

// take gives c a turn: each client sends one request after another for the given time.
func (c *contestant) take(ctx context.Context, clients int, length time.Duration) (*turn, error) {
	conns := make([]*clientConn, clients)
	for i := range conns {
		conn, err := dial(ctx, c.address)
		if err != nil {
			return nil, err
		}
		defer conn.close()
		conns[i] = conn
	}
	cpu, err := cpuTimeOf(c.process)
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
	after, err := cpuTimeOf(c.process)
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
	return &clientConn{conn: conn, reader: bufio.NewReaderSize(conn, 64<<10)}, nil
}

func (c *clientConn) close() { _ = c.conn.Close() }

func (c *clientConn) drive(ctx context.Context, of *contestant, next int, until time.Time) error {
	if err := c.conn.SetDeadline(until.Add(patience)); err != nil {
		return err
	}
	for before := time.Now(); before.Before(until) && ctx.Err() == nil; next++ {
		if err := c.exchange(&of.requests[next%len(of.requests)]); err != nil {
			return err
		}
		now := time.Now()
		c.latencies = append(c.latencies, now.Sub(before))
		before = now
	}
	return ctx.Err()
}

// exchange sends a request and checks the response.
func (c *clientConn) exchange(r *request) error {
	if err := c.send(r); err != nil {
		return err
	}
	head, err := readHead(c.reader)
	if err != nil {
		return err
	}
	ok := bytes.HasPrefix(head, []byte("HTTP/1.1 200 "))
	status, _, _ := bytes.Cut(head, []byte("\r\n"))
	text, _ := value(head, "Content-Length")
	length, err := strconv.Atoi(text)
	if err != nil {
		return fmt.Errorf("a response without Content-Length: %s", status)
	}
	line := string(status) // the next read overwrites it
	start, err := c.reader.Peek(min(length, max(len(r.start), 200)))
	switch {
	case err != nil:
		return err
	case !ok:
		return fmt.Errorf("%s: %s", line, start)
	case length != r.length:
		return fmt.Errorf("a response of %d bytes, want %d", length, r.length)
	case !bytes.HasPrefix(start, []byte(r.start)):
		return fmt.Errorf("the response begins with %q, want %q", start, r.start)
	}
	_, err = c.reader.Discard(length)
	return err
}

func (c *clientConn) send(r *request) error {
	if r.body == nil {
		_, err := c.conn.Write(r.head)
		return err
	}
	message := net.Buffers{r.head, r.body}
	_, err := message.WriteTo(c.conn)
	return err
}
