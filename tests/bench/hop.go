package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/tokenbroker/caddy-token-broker/tests/tokenpair"
)

// A hop answers the requests that the broker gets with the least that net/http needs: it sends
// what the raw client sends to Vault, and passes calls on. It is the ceiling for a broker that is
// a process of its own.
type hop struct {
	vault *rawVault

	mu     sync.Mutex
	tokens map[string]tokenpair.Pair // guarded by mu; of each consumer
}

// The files that a hop reads: the token for Vault, and the data of each secret.
const (
	vaultTokenFile = "vault-token"
	dataFile       = "data.json"
)

// startHop starts a hop on all CPUs. The files are in dir.
func startHop(ctx context.Context, vault, dir string, third *thirdParty) (*self, *storeBroker, error) {
	p, err := startSelf(ctx, allCPUs(), roleHop, "-target", vault, "-dir", dir, "-third-party", "http://"+third.address)
	if err != nil {
		return nil, nil, err
	}
	b := &storeBroker{client: newClient(), third: third}
	for i, port := range []*int{&b.ports.API, &b.ports.Admin} {
		if *port, err = portOf(p.addresses[i]); err != nil {
			p.stop()
			return nil, nil, err
		}
	}
	b.ports.Call = b.ports.API
	return p, b, nil
}

func portOf(address string) (int, error) {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(port)
}

// serveHop runs the process.
func serveHop(vault, dir, third string) error {
	token, err := os.ReadFile(filepath.Join(dir, vaultTokenFile))
	if err != nil {
		return err
	}
	data, err := os.ReadFile(filepath.Join(dir, dataFile))
	if err != nil {
		return err
	}
	h := newHop(&rawVault{
		address: vault, token: strings.TrimSpace(string(token)), prefix: hopPrefix, endpoint: third + "/token", client: newClient(), data: data,
	})
	return serveAsSelf(h.handler(third))
}

func newHop(vault *rawVault) *hop {
	return &hop{vault: vault, tokens: make(map[string]tokenpair.Pair)}
}

func (h *hop) handler(third string) http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, do func(r *http.Request, consumer string) ([]byte, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			content, err := do(r, r.Header.Get("X-Apideck-Consumer-Id"))
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadGateway)
				return
			}
			if r.Method == http.MethodPost {
				w.Header().Set("X-Token-Broker-Import", "stored")
			}
			_, _ = w.Write(content)
		})
	}
	handle("POST /vault/connections/"+serviceName+"/import", h.storeTokens)
	handle("GET /vault/connections/"+serviceName, func(r *http.Request, consumer string) ([]byte, error) {
		found, err := h.vault.read(r.Context(), consumer)
		return found.data, err
	})
	handle("GET "+credentialPath, func(r *http.Request, consumer string) ([]byte, error) {
		return h.call(r.Context(), consumer, third+credentialPath)
	})
	return mux
}

// storeTokens stores what an import brings.
func (h *hop) storeTokens(r *http.Request, consumer string) ([]byte, error) {
	content, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	var body struct {
		Credentials struct {
			Refresh string `json:"refresh_token"`
		} `json:"credentials"`
	}
	if err := json.Unmarshal(content, &body); err != nil {
		return nil, err
	}
	tokens, ok := tokenpair.ParseRefresh(body.Credentials.Refresh)
	if !ok {
		return nil, fmt.Errorf("the import has no refresh token: %s", content)
	}
	h.mu.Lock()
	_, again := h.tokens[consumer]
	h.tokens[consumer] = tokens
	h.mu.Unlock()
	if again {
		return content, h.vault.replace(r.Context(), consumer)
	}
	return content, h.vault.create(r.Context(), consumer)
}

// call refreshes a consumer's tokens and makes a call with the new access token.
func (h *hop) call(ctx context.Context, consumer, target string) ([]byte, error) {
	h.mu.Lock()
	old := h.tokens[consumer]
	h.tokens[consumer] = old.Next()
	h.mu.Unlock()
	access, err := h.vault.refresh(ctx, consumer, old.Refresh())
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(target)
	if err != nil {
		return nil, err
	}
	req := (&http.Request{Method: http.MethodGet, URL: u, Header: http.Header{"Authorization": {"Bearer " + access}}}).WithContext(ctx)
	_, content, err := exchange(h.vault.client, req)
	return content, err
}
