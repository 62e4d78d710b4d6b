package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/template"
	"time"

	"github.com/tokenbroker/caddy-token-broker/tests/child"
)

// startTimeout is how long the broker may take until the first call succeeds.
const startTimeout = 2 * time.Minute

const consumerHeader = "X-Apideck-Consumer-Id"

// A broker is a running token-broker.
type broker struct {
	process *child.Process
	ports   ports
	logPath string
	// startedIn is the time from the start of the process to the first response to a call.
	startedIn time.Duration
}

// ports are the ports of a broker, on 127.0.0.1.
type ports struct{ Admin, API, Sidecar int }

func siteURL(port int) string { return fmt.Sprintf("http://127.0.0.1:%d", port) }

// A deployment says how to start a broker.
type deployment struct {
	binary  string
	dir     string // for its files
	storage string // lines of the Caddyfile
	service string // address of the service
	others  int    // number of connectors that are configured beside the service's
	// cacheTTL is the broker's cache_ttl; zero: its default.
	cacheTTL time.Duration
}

// start starts a broker and waits for the first successful call, of connection 0.
func (d *deployment) start(ctx context.Context) (b *broker, err error) {
	b = &broker{logPath: filepath.Join(d.dir, "broker.log")}
	for _, port := range []*int{&b.ports.Admin, &b.ports.API, &b.ports.Sidecar} {
		if *port, err = child.FreePort(); err != nil {
			return nil, err
		}
	}
	var config bytes.Buffer
	if err := caddyfile.Execute(&config, map[string]any{
		"Ports": b.ports, "Storage": d.storage, "Journal": filepath.Join(d.dir, "journal"), "Service": d.service,
		"Application": application, "APIKey": apiKey, "Connector": serviceName, "CacheTTL": d.cacheTTL, "Others": otherServices(d.others),
	}); err != nil {
		return nil, err
	}
	path := filepath.Join(d.dir, "Caddyfile")
	if err := writeFile(path, config.String()); err != nil {
		return nil, err
	}
	log, err := os.OpenFile(b.logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	cmd := exec.CommandContext(ctx, d.binary, "run", "--config", path)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + d.dir, "XDG_DATA_HOME=" + d.dir, "XDG_CONFIG_HOME=" + d.dir}
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = log, log, child.DieWithParent()
	begun := time.Now()
	if b.process, err = child.Start(cmd, cmd.Start); err != nil {
		return nil, err
	}
	err = b.await(ctx, begun.Add(startTimeout))
	b.startedIn = time.Since(begun)
	return b, err
}

// await waits until a call succeeds.
func (b *broker) await(ctx context.Context, deadline time.Time) error {
	for {
		status, _, err := get(ctx, siteURL(b.ports.Sidecar)+"/things", http.Header{consumerHeader: {consumerID(0)}})
		switch {
		case err == nil && status == http.StatusOK:
			return nil
		case err == nil:
			err = fmt.Errorf("the status of a call is %d", status)
		}
		if b.process.HasExited() || time.Now().After(deadline) || ctx.Err() != nil {
			return fmt.Errorf("the broker did not answer: %w\n%s", err, b.logTail())
		}
		time.Sleep(time.Millisecond)
	}
}

func (b *broker) stop() error { return b.process.Stop() }

// logTail returns the end of the broker's log.
func (b *broker) logTail() string {
	const limit = 4096
	log, err := os.ReadFile(b.logPath)
	if err != nil {
		return err.Error()
	}
	return string(log[max(0, len(log)-limit):])
}

// get sends a request and returns the status and the body of the response.
func get(ctx context.Context, url string, header http.Header) (status int, body []byte, err error) {
	return send(ctx, http.MethodGet, url, header, "")
}

func send(ctx context.Context, method, url string, header http.Header, content string) (status int, body []byte, err error) {
	return sendWith(ctx, http.DefaultClient, method, url, header, content)
}

func sendWith(ctx context.Context, client *http.Client, method, url string, header http.Header, content string) (status int, body []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(content))
	if err != nil {
		return 0, nil, err
	}
	req.Header = header
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	body, err = io.ReadAll(resp.Body)
	return resp.StatusCode, body, errors.Join(err, resp.Body.Close())
}

// logged returns the lines of the broker's log with that message.
func (b *broker) logged(msg string) (lines [][]byte, err error) {
	log, err := os.ReadFile(b.logPath)
	for line := range bytes.Lines(log) {
		if bytes.Contains(line, []byte(`"msg":"`+msg+`"`)) {
			lines = append(lines, line)
		}
	}
	return lines, err
}

func writeFile(path, content string) error { return os.WriteFile(path, []byte(content), 0o600) }

// otherServices returns names of connectors beside the one of the service.
func otherServices(count int) []string {
	names := make([]string, count)
	for i := range names {
		names[i] = fmt.Sprintf("crm/other-%04d", i)
	}
	return names
}

// caddyfile logs as Caddy does by default: level info, and no access log. The service takes
// more token requests than most: what is measured is the broker and its store.
var caddyfile = template.Must(template.New("Caddyfile").Parse(strings.TrimSpace(`
{
	admin 127.0.0.1:{{.Ports.Admin}}
	persist_config off
	auto_https off
	token_broker {
		{{.Storage}}
		journal {{.Journal}}
		{{if .CacheTTL}}cache_ttl {{.CacheTTL}}{{end}}
		app {{.Application}} {
			api_key {{.APIKey}}
		}
		connector {{.Connector}} {
			auth_type oauth2
			token_url http://{{.Service}}/token
			auth_style params
			client_id load
			client_secret load
			rotation always
			refresh_rate 200/s
			refresh_concurrency 64
			base_url http://{{.Service}}
			allow_private
		}
		{{range .Others}}
		connector {{.}} {
			auth_type apiKey
			base_url http://127.0.0.1:1
			allow_private
		}
		{{end}}
	}
}

http://127.0.0.1:{{.Ports.API}} {
	bind 127.0.0.1
	connections_api
}

http://127.0.0.1:{{.Ports.Sidecar}} {
	bind 127.0.0.1
	reverse_proxy http://{{.Service}} {
		transport token_broker {{.Connector}} {
			app {{.Application}}
		}
	}
}
`) + "\n"))
