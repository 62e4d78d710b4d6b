package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest/vaulttest"
)

// A rawVault uses Vault without the broker.
type rawVault struct {
	address  string
	token    string
	prefix   string // of the paths of its secrets
	endpoint string // URL of the token endpoint
	client   *http.Client
	data     json.RawMessage // of each secret: that of one of the broker's
}

// The prefixes of the paths of secrets. They are equally deep.
const (
	brokerPrefix = "token-broker/connections"
	rawPrefix    = "raw-client/connections"
	hopPrefix    = "net-http/connections"
)

// startVault starts a Vault with its files in dir, and writes its token there.
func startVault(dir string) (vault *vaulttest.Server, err error) {
	files := filepath.Join(dir, "vault")
	if err := os.Mkdir(files, 0o700); err != nil {
		return nil, err
	}
	if vault, err = vaulttest.Run(files); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, vaultTokenFile), []byte(vault.Token+"\n"), 0o600); err != nil {
		return nil, errors.Join(err, vault.Close())
	}
	return vault, nil
}

// inVault returns the block of a Caddyfile for the Vault at an address, whose token is in dir.
func inVault(address, dir string) string {
	return fmt.Sprintf("storage vault {\n address %s\n auth token {file.%s}\n}", address, filepath.Join(dir, vaultTokenFile))
}

// copyData makes v write what the broker has written for a consumer.
func (v *rawVault) copyData(ctx context.Context, consumer string) error {
	broker := *v
	broker.prefix = brokerPrefix
	found, err := broker.read(ctx, consumer)
	v.data = found.data
	return err
}

// path returns the path of a consumer's secret below the mount.
func (v *rawVault) path(consumer string) string {
	return v.prefix + "/" + application + "/" + consumer + "/crm.bench"
}

// create creates a secret. That it must not exist is checked by Vault.
func (v *rawVault) create(ctx context.Context, consumer string) error {
	return v.write(ctx, consumer, 0)
}

// replace reads a secret and writes it.
func (v *rawVault) replace(ctx context.Context, consumer string) error {
	found, err := v.read(ctx, consumer)
	if err != nil {
		return err
	}
	return v.write(ctx, consumer, found.version)
}

// refresh does what a refresh needs: it reads a secret, writes it to take the lease, redeems the
// refresh token and writes the secret with the new tokens. It returns the access token.
func (v *rawVault) refresh(ctx context.Context, consumer, refreshToken string) (string, error) {
	found, err := v.read(ctx, consumer)
	if err != nil {
		return "", err
	}
	if err := v.write(ctx, consumer, found.version); err != nil {
		return "", err
	}
	access, err := v.redeem(ctx, refreshToken)
	if err != nil {
		return "", err
	}
	return access, v.write(ctx, consumer, found.version+1)
}

// A secretVersion is the latest version of a secret.
type secretVersion struct {
	version int
	data    json.RawMessage
}

// read reads a secret.
func (v *rawVault) read(ctx context.Context, consumer string) (found secretVersion, err error) {
	content, err := v.send(ctx, http.MethodGet, v.path(consumer), nil)
	if err != nil {
		return found, err
	}
	var answer struct {
		Data struct {
			Data     json.RawMessage `json:"data"`
			Metadata struct {
				Version int `json:"version"`
			} `json:"metadata"`
		} `json:"data"`
	}
	err = json.Unmarshal(content, &answer)
	if err == nil && (answer.Data.Metadata.Version == 0 || len(answer.Data.Data) == 0) {
		err = errors.New("the response to a read has no secret")
	}
	return secretVersion{answer.Data.Metadata.Version, answer.Data.Data}, err
}

// write writes the version of a secret after the given one.
func (v *rawVault) write(ctx context.Context, consumer string, version int) error {
	content, err := json.Marshal(map[string]any{"options": map[string]int{"cas": version}, "data": v.data})
	if err != nil {
		return err
	}
	content, err = v.send(ctx, http.MethodPut, v.path(consumer), content)
	if err != nil {
		return err
	}
	var answer struct {
		Data struct {
			Version int `json:"version"`
		} `json:"data"`
	}
	err = json.Unmarshal(content, &answer)
	if err == nil && answer.Data.Version != version+1 {
		err = fmt.Errorf("a write made version %d, want %d", answer.Data.Version, version+1)
	}
	return err
}

func (v *rawVault) send(ctx context.Context, method, path string, content []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, v.address+"/v1/secret/data/"+path, bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	req.Header.Set("X-Vault-Token", v.token)
	_, content, err = exchange(v.client, req)
	return content, err
}

// redeem sends a token request and returns the access token.
func (v *rawVault) redeem(ctx context.Context, refreshToken string) (string, error) {
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refreshToken}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, v.endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth("bench", "")
	_, content, err := exchange(v.client, req)
	if err != nil {
		return "", err
	}
	var tokens struct {
		Access string `json:"access_token"`
	}
	err = json.Unmarshal(content, &tokens)
	return tokens.Access, err
}
