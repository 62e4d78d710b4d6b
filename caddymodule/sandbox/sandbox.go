// Package sandbox is the module http.handlers.sandbox_provider: a small third-party service
// to try the token broker with. It has an OAuth token endpoint that rotates refresh tokens,
// an API, and a webhook receiver, and keeps everything in memory.
package sandbox

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	caddy.RegisterModule(Provider{})
	httpcaddyfile.RegisterHandlerDirective("sandbox_provider", parse)
	httpcaddyfile.RegisterDirectiveOrder("sandbox_provider", httpcaddyfile.Before, "respond")
}

// The fixed credentials of the provider.
const (
	ClientID     = "sandbox-client"
	ClientSecret = "sandbox-secret"

	// GrantPrefix is the prefix of refresh tokens that the provider accepts as the first of a
	// new grant.
	GrantPrefix = "sandbox-rt-"

	// WebhookSecret is the secret that webhooks must be signed with.
	WebhookSecret = "sandbox-webhook-secret"
)

const defaultLifetime = time.Minute

// Provider is the service. It answers
//
//   - POST /oauth/token: grant_type=refresh_token, from the client sandbox-client with
//     the secret sandbox-secret. Each refresh token works once; sending it again revokes
//     the grant. Any token that begins with sandbox-rt- starts a new grant.
//   - /api/...: the number of the request's access token within its grant, from 1.
//   - POST /webhooks: receives webhooks signed with sandbox-webhook-secret.
//   - GET /webhooks: the webhooks received, and whether their signatures are valid.
type Provider struct {
	// How long access tokens are valid. Default: `1m`.
	TokenLifetime caddy.Duration `json:"token_lifetime,omitempty"`

	state *state
}

// CaddyModule returns the Caddy module information.
func (Provider) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.sandbox_provider", New: func() caddy.Module { return new(Provider) }}
}

func parse(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	p := &Provider{}
	return p, p.UnmarshalCaddyfile(h.Dispenser)
}

// UnmarshalCaddyfile parses the directive. Syntax:
//
//	sandbox_provider [<matcher>] {
//		token_lifetime <duration>
//	}
func (p *Provider) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // "sandbox_provider"
	if d.NextArg() {
		return d.ArgErr()
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if d.Val() != "token_lifetime" {
			return d.Errf("unrecognized subdirective of sandbox_provider: %s", d.Val())
		}
		args := d.RemainingArgs()
		if len(args) != 1 || p.TokenLifetime != 0 {
			return d.Err("token_lifetime is given once, with one duration")
		}
		lifetime, err := caddy.ParseDuration(args[0])
		if err != nil || lifetime < time.Second {
			return d.Errf("token_lifetime: %s is not a duration of a second or more", args[0])
		}
		p.TokenLifetime = caddy.Duration(lifetime)
	}
	return nil
}

// states keeps the provider's state across reloads.
var states = caddy.NewUsagePool()

// Provision gets the state.
func (p *Provider) Provision(caddy.Context) error {
	if p.TokenLifetime == 0 {
		p.TokenLifetime = caddy.Duration(defaultLifetime)
	}
	s, _ := states.LoadOrStore("sandbox", newState())
	p.state = s.(*state)
	return nil
}

// Cleanup releases the state.
func (p *Provider) Cleanup() error {
	if p.state == nil {
		return nil
	}
	_, err := states.Delete("sandbox")
	return err
}

// ServeHTTP implements [caddyhttp.MiddlewareHandler].
func (p *Provider) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
	switch {
	case r.URL.Path == "/oauth/token" && r.Method == http.MethodPost:
		p.serveToken(w, r)
	case r.URL.Path == "/api" || strings.HasPrefix(r.URL.Path, "/api/"):
		p.serveAPI(w, r)
	case r.URL.Path == "/webhooks" && r.Method == http.MethodPost:
		p.receiveWebhook(w, r)
	case r.URL.Path == "/webhooks" && r.Method == http.MethodGet:
		write(w, http.StatusOK, map[string]any{"webhooks": p.state.webhooks()})
	default:
		return next.ServeHTTP(w, r)
	}
	return nil
}

// serveToken is the token endpoint (RFC 6749 section 6).
func (p *Provider) serveToken(w http.ResponseWriter, r *http.Request) {
	refuse := func(status int, code string) { write(w, status, map[string]any{"error": code}) }
	if err := r.ParseForm(); err != nil {
		refuse(http.StatusBadRequest, "invalid_request")
		return
	}
	id, secret, ok := r.BasicAuth()
	if !ok {
		id, secret = r.PostForm.Get("client_id"), r.PostForm.Get("client_secret")
	}
	switch {
	case id != ClientID || secret != ClientSecret:
		w.Header().Set("WWW-Authenticate", "Basic")
		refuse(http.StatusUnauthorized, "invalid_client")
	case r.PostForm.Get("grant_type") != "refresh_token":
		refuse(http.StatusBadRequest, "unsupported_grant_type")
	default:
		lifetime := time.Duration(p.TokenLifetime)
		access, refresh, ok := p.state.redeem(r.PostForm.Get("refresh_token"), time.Now().Add(lifetime))
		if !ok {
			refuse(http.StatusBadRequest, "invalid_grant")
			return
		}
		write(w, http.StatusOK, map[string]any{
			"access_token": access, "refresh_token": refresh,
			"token_type": "Bearer", "expires_in": int(lifetime.Seconds()),
		})
	}
}

// serveAPI identifies the access token by number, without showing it.
func (p *Provider) serveAPI(w http.ResponseWriter, r *http.Request) {
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	number, ok := p.state.number(token, time.Now())
	if !ok {
		w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`) // RFC 6750 section 3.1
		write(w, http.StatusUnauthorized, map[string]any{"error": "unknown or expired access token"})
		return
	}
	hash := sha256.Sum256([]byte(token))
	write(w, http.StatusOK, map[string]any{
		"path": r.URL.Path, "method": r.Method,
		"token_number": number, "token_sha256": hex.EncodeToString(hash[:4]),
	})
}

// receiveWebhook records a delivery, whether or not its signature is valid.
func (p *Provider) receiveWebhook(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		write(w, http.StatusRequestEntityTooLarge, map[string]any{"error": "the webhook is too large"})
		return
	}
	mac := hmac.New(sha256.New, []byte(WebhookSecret))
	mac.Write(body)
	signature, _ := hex.DecodeString(r.Header.Get("X-Apideck-Signature"))
	p.state.receive(webhook{ReceivedAt: time.Now(), Verified: hmac.Equal(signature, mac.Sum(nil)), Body: string(body)})
	w.WriteHeader(http.StatusNoContent)
}

func write(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

var (
	_ caddy.Provisioner           = (*Provider)(nil)
	_ caddy.CleanerUpper          = (*Provider)(nil)
	_ caddyhttp.MiddlewareHandler = (*Provider)(nil)
)
