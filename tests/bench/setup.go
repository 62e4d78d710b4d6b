package main

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/tests/child"
)

// A setup is a store and a process that uses it.
type setup struct {
	connections int
	binary, dir string
	certificate string // directory of the upstream's certificate
	hasProxy    bool   // the binary has downstream_proxy
	upstream    *upstreamProcess
	filledIn    time.Duration // how long filling the store took
	ports       ports
	process     *child.Process
	log         *brokertest.Log // of the process
}

// ports are the ports of the admin endpoint and the contestants, on 127.0.0.1.
type ports struct{ Admin, Plain, Transport, Proxy, PlainSecure, TransportSecure int }

// prepare fills the store and starts the process.
func (s *setup) prepare(ctx context.Context) error {
	modules, err := exec.CommandContext(ctx, s.binary, "list-modules").Output()
	if err != nil {
		return fmt.Errorf("%s list-modules: %w", s.binary, err)
	}
	s.hasProxy = bytes.Contains(modules, []byte("\nhttp.handlers.downstream_proxy\n"))
	start := time.Now()
	if err := fill(ctx, s.dir, s.connections); err != nil {
		return err
	}
	s.filledIn = time.Since(start)
	return s.start(ctx)
}

// start starts the process and waits for the first response through the transport.
func (s *setup) start(ctx context.Context) (err error) {
	for _, port := range []*int{
		&s.ports.Admin, &s.ports.Plain, &s.ports.Transport, &s.ports.Proxy, &s.ports.PlainSecure, &s.ports.TransportSecure,
	} {
		if *port, err = child.FreePort(); err != nil {
			return err
		}
	}
	config, err := s.caddyfile()
	if err != nil {
		return err
	}
	if s.process, s.log, err = startCaddy(ctx, s.binary, s.dir, config, proxyCPUs()); err != nil {
		return err
	}
	c := s.transport()
	return await(s.process, s.log, func() error { return c.first(ctx) })
}

// restart stops the process and starts it again. It returns the time of the start.
func (s *setup) restart(ctx context.Context) (begun time.Time, err error) {
	if err := s.process.Stop(); err != nil {
		return begun, err
	}
	begun = time.Now()
	return begun, s.start(ctx)
}

// first sends the contestant's first request.
func (c *contestant) first(ctx context.Context) error {
	conn, err := dial(ctx, c.address)
	if err != nil {
		return err
	}
	defer conn.close()
	return conn.exchange(&c.requests[0])
}

func (ports) address(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// checkedBytes bounds what the checks of a contestant send.
const checkedBytes = 64 << 20

// check makes a call of each connection in use through each contestant, and checks that the
// upstream got that connection's token. With large bodies it leaves connections out.
func (s *setup) check(ctx context.Context, t *traffic, contestants []*contestant) error {
	for _, c := range contestants {
		conn, err := dial(ctx, c.address)
		if err != nil {
			return err
		}
		defer conn.close()
		for i := range min(s.inUse(), checkedBytes/max(1, len(t.body))) {
			connection := s.connection(i)
			want := c.credential(connection)
			err := conn.exchange(&request{
				head: s.head(t, c, credentialPath, connection), body: t.body, start: want, length: max(len(want), len(t.body)),
			})
			if err != nil {
				return fmt.Errorf("%s, connection %d of %d: %w\n%s", c.name, connection, s.connections, err, s.log.String())
			}
		}
	}
	return nil
}
