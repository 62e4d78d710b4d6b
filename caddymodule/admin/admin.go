// Package admin is the module admin.api.token_broker: health checks on Caddy's admin
// endpoint.
package admin

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/tokenbroker/caddy-token-broker/caddymodule/tokenbroker"
)

func init() {
	caddy.RegisterModule(API{})
}

// readyTimeout is how long the store has to answer a readiness check.
const readyTimeout = 5 * time.Second

// API adds the broker's health checks to Caddy's admin endpoint. That endpoint does not
// authenticate, so the responses contain nothing secret.
type API struct{}

// CaddyModule returns the Caddy module information.
func (API) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "admin.api.token_broker", New: func() caddy.Module { return new(API) }}
}

// Routes implements [caddy.AdminRouter].
func (API) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{
		{Pattern: "/token_broker/health/live", Handler: caddy.AdminHandlerFunc(serveLive)},
		{Pattern: "/token_broker/health/ready", Handler: caddy.AdminHandlerFunc(serveReady)},
	}
}

type healthJSON struct {
	Status string               `json:"status"` // "ok" or "unavailable"
	Checks map[string]checkJSON `json:"checks,omitempty"`
}

type checkJSON struct {
	Status string `json:"status"` // "up" or "down"
	Error  string `json:"error,omitempty"`
}

// serveLive always answers 200: the process is up.
func serveLive(w http.ResponseWriter, r *http.Request) error {
	return writeHealth(w, r, http.StatusOK, healthJSON{Status: "ok"})
}

// serveReady answers 200 if calls can be served, otherwise 503 with the part that is down.
func serveReady(w http.ResponseWriter, r *http.Request) error {
	checks := make(map[string]checkJSON)
	status := http.StatusOK
	check := func(part string, err error) {
		checks[part] = checkJSON{Status: "up"}
		if err != nil {
			checks[part] = checkJSON{Status: "down", Error: err.Error()}
			status = http.StatusServiceUnavailable
		}
	}
	app, err := tokenbroker.Active()
	check("configuration", err)
	if app != nil {
		ctx, cancel := context.WithTimeout(r.Context(), readyTimeout)
		defer cancel()
		check("store", app.Broker().Ready(ctx))
	}
	health := healthJSON{Status: "ok", Checks: checks}
	if status != http.StatusOK {
		health.Status = "unavailable"
	}
	return writeHealth(w, r, status, health)
}

func writeHealth(w http.ResponseWriter, r *http.Request, status int, health healthJSON) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		return caddy.APIError{HTTPStatus: http.StatusMethodNotAllowed, Err: errors.New("method not allowed")}
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	return json.NewEncoder(w).Encode(health)
}

// Interface guards
var _ caddy.AdminRouter = API{}
