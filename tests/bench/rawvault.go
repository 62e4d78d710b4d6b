package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// A rawVault uses Vault without the broker.
type rawVault struct {
	address string
	token   string
	client  *http.Client
	data    json.RawMessage // of each secret: that of one of the broker's
	third   *thirdParty
}

// The paths of secrets in Vault: those that the broker wrote, and those of the raw client.
const (
	brokerSecret = "token-broker/connections/" + application + "/%s/crm.bench"
	rawSecret    = "raw/" + application + "/%s/crm.bench"
)

// copyData takes the data that the broker stores for a connection.
func (v *rawVault) copyData(ctx context.Context, connection int) error {
	found, err := v.readSecret(ctx, fmt.Sprintf(brokerSecret, consumerID(connection)))
	v.data = found.data
	return err
}

// create creates a secret. That it must not exist is checked by Vault.
func (v *rawVault) create(ctx context.Context, i int) error { return v.write(ctx, i, 0) }

// read reads a secret.
func (v *rawVault) read(ctx context.Context, i int) error {
	_, err := v.readSecret(ctx, fmt.Sprintf(rawSecret, consumerID(i)))
	return err
}

// refresh does what a refresh needs: it reads a secret, writes it to take the lease, redeems the
// refresh token and writes the secret with the new tokens.
func (v *rawVault) refresh(ctx context.Context, i int) error {
	found, err := v.readSecret(ctx, fmt.Sprintf(rawSecret, consumerID(i)))
	if err != nil {
		return err
	}
	if err := v.write(ctx, i, found.version); err != nil {
		return err
	}
	if err := v.redeem(ctx, i); err != nil {
		return err
	}
	return v.write(ctx, i, found.version+1)
}

// A secretVersion is the latest version of a secret.
type secretVersion struct {
	version int
	data    json.RawMessage
}

func (v *rawVault) readSecret(ctx context.Context, path string) (found secretVersion, err error) {
	content, err := v.send(ctx, http.MethodGet, path, nil)
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
func (v *rawVault) write(ctx context.Context, i, version int) error {
	content, err := json.Marshal(map[string]any{"options": map[string]int{"cas": version}, "data": v.data})
	if err != nil {
		return err
	}
	content, err = v.send(ctx, http.MethodPut, fmt.Sprintf(rawSecret, consumerID(i)), content)
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

// redeem sends a token request.
func (v *rawVault) redeem(ctx context.Context, i int) error {
	old := v.third.current(rawConnection + i)
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {old.Refresh()}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+v.third.address+"/token", strings.NewReader(form.Encode()))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth("bench", "")
	_, content, err := exchange(v.client, req)
	if err != nil {
		return err
	}
	var tokens struct {
		Access string `json:"access_token"`
	}
	err = json.Unmarshal(content, &tokens)
	if want := v.third.current(rawConnection + i).Access(); err == nil && tokens.Access != want {
		err = fmt.Errorf("the token endpoint returned %s, want %s", tokens.Access, want)
	}
	return err
}
