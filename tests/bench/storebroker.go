package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"text/template"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/tests/child"
)

// A storeBroker is a token-broker that is measured for what it does with its store.
type storeBroker struct {
	process *child.Process
	log     *brokertest.Log
	ports   struct{ API, Call, Admin int }
	client  *http.Client
	third   *thirdParty
}

// startStoreBroker starts a broker on all CPUs, with its files in dir. storage is the line or
// block of the Caddyfile.
func startStoreBroker(ctx context.Context, binary, dir, storage string, third *thirdParty) (b *storeBroker, err error) {
	b = &storeBroker{client: newClient(), third: third}
	for _, port := range []*int{&b.ports.API, &b.ports.Call, &b.ports.Admin} {
		if *port, err = child.FreePort(); err != nil {
			return nil, err
		}
	}
	var config bytes.Buffer
	if err := storeCaddyfile.Execute(&config, map[string]any{
		"Ports": b.ports, "Storage": storage, "Journal": filepath.Join(dir, "journal"), "ThirdParty": third.address,
		"Application": application, "APIKey": apiKey, "Connector": serviceName,
	}); err != nil {
		return nil, err
	}
	if b.process, b.log, err = startCaddy(ctx, binary, dir, config.String(), allCPUs()); err != nil {
		return nil, err
	}
	if err := await(b.process, b.log, func() error {
		_, _, err := b.send(ctx, http.MethodGet, b.ports.API, "/vault/connections", 0, nil)
		return err
	}); err != nil {
		return nil, errors.Join(err, b.process.Stop())
	}
	return b, nil
}

// newClient returns a client with the settings of the broker's client for Vault.
func newClient() *http.Client {
	const most = 80
	return &http.Client{Timeout: patience, Transport: &http.Transport{
		MaxIdleConns: most, MaxIdleConnsPerHost: most, MaxConnsPerHost: most, IdleConnTimeout: 90 * time.Second,
	}}
}

// importTokens imports a connection with new tokens.
func (b *storeBroker) importTokens(ctx context.Context, connection int) error {
	tokens := b.third.issue(connection)
	content, err := json.Marshal(map[string]any{
		"credentials": map[string]any{
			"access_token": tokens.Access(), "refresh_token": tokens.Refresh(),
			"issued_at": time.Now().UTC().Format(time.RFC3339Nano), "expires_in": int(tokenLifetime / time.Second),
		},
		"settings": map[string]any{"region": "eu"},
		"metadata": map[string]any{"account": fmt.Sprintf("account-%d", connection)},
	})
	if err != nil {
		return err
	}
	header, _, err := b.send(ctx, http.MethodPost, b.ports.API, "/vault/connections/"+serviceName+"/import", connection, content)
	if outcome := header.Get("X-Token-Broker-Import"); err == nil && outcome != "stored" {
		return fmt.Errorf("the outcome of an import is %q, want stored", outcome)
	}
	return err
}

// read gets a connection. The broker reads its record from the store for that.
func (b *storeBroker) read(ctx context.Context, connection int) error {
	_, _, err := b.send(ctx, http.MethodGet, b.ports.API, "/vault/connections/"+serviceName, connection, nil)
	return err
}

// refresh makes a call of a connection whose token has expired. It checks that the call had the
// credential that comes after that.
func (b *storeBroker) refresh(ctx context.Context, connection int) error {
	next := b.third.current(connection).Next()
	_, got, err := b.send(ctx, http.MethodGet, b.ports.Call, credentialPath, connection, nil)
	if err == nil && string(got) != next.Access() {
		return fmt.Errorf("the third party got %s, want %s: unless its token is a wrong one, "+
			"the connection was called again within %v; longer turns import more connections", got, next.Access(), tokenLifetime)
	}
	return err
}

// send sends a request for a connection. A status other than 200 is an error.
func (b *storeBroker) send(ctx context.Context, method string, port int, path string, connection int, content []byte) (http.Header, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, fmt.Sprintf("http://127.0.0.1:%d%s", port, path), bytes.NewReader(content))
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set("X-Apideck-Consumer-Id", consumerID(connection))
	if port == b.ports.API {
		req.Header.Set("Authorization", "Bearer "+apiKey)
		req.Header.Set("X-Apideck-App-Id", application)
	}
	if len(content) > 0 {
		req.Header.Set("Content-Type", "application/json")
	}
	return exchange(b.client, req)
}

// exchange sends a request. A status other than 200 is an error.
func exchange(client *http.Client, req *http.Request) (http.Header, []byte, error) {
	resp, err := client.Do(req)
	if err != nil {
		return nil, nil, err
	}
	content, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s: %s: %s", req.Method, req.URL.Path, resp.Status, content)
	}
	return resp.Header, content, err
}

// storeCaddyfile has a site for the connections API and one for calls. The cache outlives the
// measurement, so that a refresh costs what it must.
var storeCaddyfile = template.Must(template.New("Caddyfile").Parse(strings.TrimSpace(`
{
	admin 127.0.0.1:{{.Ports.Admin}}
	persist_config off
	auto_https off
	token_broker {
		{{.Storage}}
		journal {{.Journal}}
		cache_ttl 1h
		app {{.Application}} {
			api_key {{.APIKey}}
		}
		connector {{.Connector}} {
			auth_type oauth2
			token_url http://{{.ThirdParty}}/token
			auth_style header
			client_id bench
			base_url http://{{.ThirdParty}}
			refresh_rate 1000/s
			refresh_concurrency 64
			allow_private
		}
	}
}

http://127.0.0.1:{{.Ports.API}} {
	bind 127.0.0.1
	connections_api
}

http://127.0.0.1:{{.Ports.Call}} {
	bind 127.0.0.1
	reverse_proxy http://{{.ThirdParty}} {
		transport token_broker {{.Connector}} {
			app {{.Application}}
		}
	}
}
`) + "\n"))
