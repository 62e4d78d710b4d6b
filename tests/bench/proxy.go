package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"text/template"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/tests/child"
)

// patience bounds how long a process takes to start.
const patience = 30 * time.Second

// A setup is a store and a process that uses it.
type setup struct {
	connections int
	binary, dir string
	hasProxy    bool // the binary has downstream_proxy
	upstream    string
	filledIn    time.Duration // how long filling the store took
	ports       ports
	process     *child.Process
	log         *brokertest.Log // of the process
}

// ports are the ports of the admin endpoint and the contestants, on 127.0.0.1.
type ports struct{ Admin, Plain, Transport, Proxy int }

// prepare fills a store, starts a process on it, and checks that each contestant puts the right
// credential into requests.
func prepare(ctx context.Context, o *options, parent string, upstream *upstreamProcess, connections int) (*setup, error) {
	s := &setup{
		connections: connections, binary: o.binary, upstream: upstream.address,
		dir: filepath.Join(parent, strconv.Itoa(connections)),
	}
	modules, err := exec.CommandContext(ctx, o.binary, "list-modules").Output()
	if err != nil {
		return nil, fmt.Errorf("%s list-modules: %w", o.binary, err)
	}
	s.hasProxy = bytes.Contains(modules, []byte("\nhttp.handlers.downstream_proxy\n"))
	start := time.Now()
	if err := fill(ctx, s.dir, connections); err != nil {
		return nil, err
	}
	s.filledIn = time.Since(start)
	if err := s.start(ctx); err != nil {
		return nil, err
	}
	return s, s.check(ctx)
}

// start starts the process and waits for the first response through the transport.
func (s *setup) start(ctx context.Context) (err error) {
	for _, port := range []*int{&s.ports.Admin, &s.ports.Plain, &s.ports.Transport, &s.ports.Proxy} {
		if *port, err = child.FreePort(); err != nil {
			return err
		}
	}
	var config bytes.Buffer
	if err := caddyfile.Execute(&config, map[string]any{
		"Ports": s.ports, "Dir": s.dir, "Upstream": s.upstream, "Application": application, "APIKey": apiKey,
		"Connector": serviceName, "HasProxy": s.hasProxy, "Static": accessToken(0),
	}); err != nil {
		return err
	}
	path := filepath.Join(s.dir, "Caddyfile")
	if err := os.WriteFile(path, config.Bytes(), 0o600); err != nil {
		return err
	}
	s.log = &brokertest.Log{}
	cmd := exec.CommandContext(ctx, s.binary, "run", "--config", path)
	cmd.Env = append(os.Environ(), "HOME="+s.dir, "XDG_DATA_HOME="+s.dir, "XDG_CONFIG_HOME="+s.dir)
	cmd.Stderr = s.log
	if s.process, err = child.Start(cmd, func() error { return startOn(cmd, proxyCPUs()) }); err != nil {
		return err
	}
	return s.await(ctx)
}

// restart stops the process and starts it again. It returns the time of the start.
func (s *setup) restart(ctx context.Context) (begun time.Time, err error) {
	if err := s.process.Stop(); err != nil {
		return begun, err
	}
	begun = time.Now()
	return begun, s.start(ctx)
}

// await waits for a response through the transport.
func (s *setup) await(ctx context.Context) error {
	c := s.contestants()[1]
	for deadline := time.Now().Add(patience); ; time.Sleep(200 * time.Microsecond) {
		err := c.first(ctx)
		switch {
		case err == nil:
			return nil
		case time.Now().After(deadline), s.process.HasExited():
			return fmt.Errorf("the proxy did not respond in time: %w\n%s", err, s.log.String())
		}
	}
}

// first sends the contestant's first request.
func (c *contestant) first(ctx context.Context) error {
	conn, err := dial(ctx, c.address)
	if err != nil {
		return err
	}
	defer conn.close()
	_, err = conn.exchange(c.requests[0])
	return err
}

// contestants returns the contestants that the binary supports: plain first, then the transport.
func (s *setup) contestants() []*contestant {
	all := []*contestant{
		{name: "plain", address: s.ports.address(s.ports.Plain)},
		{name: "transport", address: s.ports.address(s.ports.Transport)},
	}
	if s.hasProxy {
		all = append(all, &contestant{name: "proxy", address: s.ports.address(s.ports.Proxy)})
	}
	for _, c := range all {
		c.requests = s.requests(c, "/v1/things?limit=10")
	}
	return all
}

func (ports) address(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// requests returns one request for each connection in use. Those for plain Caddy and for the
// transport are the same.
func (s *setup) requests(c *contestant, target string) [][]byte {
	requests := make([][]byte, min(s.connections, inUse))
	for i := range requests {
		// The connections in use are spread over the whole store.
		consumer := consumerID(i * s.connections / len(requests))
		var b bytes.Buffer
		header := "Accept: application/json\r\nUser-Agent: bench\r\nX-Apideck-Consumer-Id: " + consumer + "\r\n"
		if c.name == "proxy" {
			header += "Authorization: Bearer " + apiKey + "\r\nX-Apideck-App-Id: " + application +
				"\r\nX-Apideck-Service-Id: bench\r\nX-Apideck-Unified-Api: crm" +
				"\r\nX-Apideck-Downstream-Url: http://" + s.upstream + target + "\r\n"
			fmt.Fprintf(&b, "GET /proxy HTTP/1.1\r\nHost: %s\r\n%s\r\n", c.address, header)
		} else {
			fmt.Fprintf(&b, "GET %s HTTP/1.1\r\nHost: %s\r\n%s\r\n", target, c.address, header)
		}
		requests[i] = b.Bytes()
	}
	return requests
}

// check makes a call of each connection in use through each contestant, and checks that the
// upstream got that connection's token.
func (s *setup) check(ctx context.Context) error {
	for _, c := range s.contestants() {
		conn, err := dial(ctx, c.address)
		if err != nil {
			return err
		}
		requests := s.requests(c, "/credential")
		for i, request := range requests {
			want := accessToken(i * s.connections / len(requests))
			if c.name == "plain" {
				want = accessToken(0)
			}
			got, err := conn.exchange(request)
			if err == nil && string(got) != want {
				err = fmt.Errorf("the upstream got %s, want %s", got, want)
			}
			if err != nil {
				conn.close()
				return fmt.Errorf("%s, connection %d of %d: %w\n%s", c.name, i, s.connections, err, s.log.String())
			}
		}
		conn.close()
	}
	return nil
}

// caddyfile has one site for each contestant. Logging is Caddy's default: no access log, and
// level info to stderr.
var caddyfile = template.Must(template.New("Caddyfile").Parse(strings.TrimSpace(`
{
	admin 127.0.0.1:{{.Ports.Admin}}
	persist_config off
	auto_https off
	token_broker {
		storage embedded {{.Dir}}/store
		journal {{.Dir}}/journal
		app {{.Application}} {
			api_key {{.APIKey}}
		}
		connector {{.Connector}} {
			auth_type oauth2
			token_url http://127.0.0.1:1/token
			auth_style header
			client_id bench
			base_url http://{{.Upstream}}
			allow_private
		}
	}
}

http://127.0.0.1:{{.Ports.Plain}} {
	bind 127.0.0.1
	reverse_proxy http://{{.Upstream}} {
		header_up Authorization "Bearer {{.Static}}"
	}
}

http://127.0.0.1:{{.Ports.Transport}} {
	bind 127.0.0.1
	reverse_proxy http://{{.Upstream}} {
		transport token_broker {{.Connector}} {
			app {{.Application}}
		}
	}
}
{{if .HasProxy}}
http://127.0.0.1:{{.Ports.Proxy}} {
	bind 127.0.0.1
	downstream_proxy
}
{{end}}
`) + "\n"))
