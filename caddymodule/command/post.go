package command

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/secret"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/command/importing"
)

func apiKey(file string) (secret.String, error) {
	text := os.Getenv("TOKEN_BROKER_API_KEY")
	if file != "" {
		b, err := os.ReadFile(file)
		if err != nil {
			return secret.String{}, err
		}
		text = string(b)
	}
	if text = strings.TrimSpace(text); text == "" {
		return secret.String{}, errors.New("no API key: set TOKEN_BROKER_API_KEY, or give --key-file")
	}
	return secret.New(text), nil
}

func poster(to, application string, key secret.String) importing.Post {
	client := &http.Client{Timeout: 2 * time.Minute, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return func(ctx context.Context, path string, header http.Header, body []byte) (*importing.Response, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(to, "/")+path, bytes.NewReader(body))
		if err != nil {
			return nil, err
		}
		req.Header = header.Clone()
		req.Header.Set("Authorization", "Bearer "+key.Reveal())
		req.Header.Set("x-apideck-app-id", application)
		req.Header.Set("Content-Type", "application/json")
		res, err := client.Do(req)
		if err != nil {
			return nil, err
		}
		defer res.Body.Close()
		text, err := io.ReadAll(io.LimitReader(res.Body, 16<<20))
		return &importing.Response{Status: res.StatusCode, Header: res.Header, Body: text}, err
	}
}
