package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/template"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/tests/child"
)

// patience bounds how long a process takes to start, and a response to arrive.
const patience = 30 * time.Second

// startCaddy starts the binary with a Caddyfile on some CPUs, with its files in dir.
func startCaddy(ctx context.Context, binary, dir, config string, cpus []int) (*child.Process, *brokertest.Log, error) {
	path := filepath.Join(dir, "Caddyfile")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		return nil, nil, err
	}
	log := &brokertest.Log{}
	cmd := exec.CommandContext(ctx, binary, "run", "--config", path)
	cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	cmd.Stderr = log
	process, err := child.Start(cmd, func() error { return startOn(cmd, cpus) })
	return process, log, err
}

// await calls try until it succeeds: then the process has started.
func await(process *child.Process, log *brokertest.Log, try func() error) error {
	for deadline := time.Now().Add(patience); ; time.Sleep(200 * time.Microsecond) {
		err := try()
		switch {
		case err == nil:
			return nil
		case time.Now().After(deadline), process.HasExited():
			return fmt.Errorf("the token-broker did not respond in time: %w\n%s", err, log.String())
		}
	}
}

// caddyfile returns the configuration of the setup's process.
func (s *setup) caddyfile() (string, error) {
	var config bytes.Buffer
	err := proxyCaddyfile.Execute(&config, map[string]any{
		"Ports": s.ports, "Dir": s.dir, "Application": application, "APIKey": apiKey,
		"Upstream": s.upstreamURL(false), "Secure": s.upstreamURL(true), "SecureHost": s.upstream.secure,
		"Certificate": filepath.Join(s.certificate, certificateName),
		"Connector":   serviceName, "HasProxy": s.hasProxy, "Static": accessToken(0),
	})
	return config.String(), err
}

// proxyCaddyfile has one site for each contestant and each of the upstream's protocols.
// Logging is Caddy's default: no access log, and level info to stderr.
var proxyCaddyfile = template.Must(template.New("Caddyfile").Parse(strings.TrimSpace(`
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
			base_url {{.Upstream}}
			allow_host {{.SecureHost}}
			allow_private
		}
	}
}

http://127.0.0.1:{{.Ports.Plain}} {
	bind 127.0.0.1
	reverse_proxy {{.Upstream}} {
		header_up Authorization "Bearer {{.Static}}"
	}
}

http://127.0.0.1:{{.Ports.PlainSecure}} {
	bind 127.0.0.1
	reverse_proxy {{.Secure}} {
		header_up Authorization "Bearer {{.Static}}"
		transport http {
			tls_trust_pool file {{.Certificate}}
		}
	}
}

http://127.0.0.1:{{.Ports.Transport}} {
	bind 127.0.0.1
	reverse_proxy {{.Upstream}} {
		transport token_broker {{.Connector}} {
			app {{.Application}}
		}
	}
}

http://127.0.0.1:{{.Ports.TransportSecure}} {
	bind 127.0.0.1
	reverse_proxy {{.Secure}} {
		transport token_broker {{.Connector}} {
			app {{.Application}}
			tls_trust_pool file {{.Certificate}}
		}
	}
}
{{if .HasProxy}}
http://127.0.0.1:{{.Ports.Proxy}} {
	bind 127.0.0.1
	downstream_proxy {
		tls_trust_pool file {{.Certificate}}
	}
}
{{end}}
`) + "\n"))
