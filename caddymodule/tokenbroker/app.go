// Package tokenbroker is the app token_broker: its configuration, and the broker that
// configurations share across reloads. Handlers and transports get the app with
// [FromContext].
package tokenbroker

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/tokenbroker/caddy-token-broker/broker"
	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/webhook"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/caller"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/fields"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/placeholder"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/storage"
)

func init() {
	caddy.RegisterModule(App{})
}

// appName is the app's module ID and the name of the global option.
const appName = "token_broker"

// App keeps the OAuth tokens of connections fresh for the handlers and transports of this
// server. Its configuration says where connections are stored, which applications may call,
// and which services they can use.
type App struct {
	// Where connections are stored. Default: `vault` if VAULT_ADDR is set, otherwise
	// `embedded`, an encrypted local file.
	StorageRaw json.RawMessage `json:"storage,omitempty" caddy:"namespace=token_broker.storage inline_key=module"`

	// The applications that may call, by the id that they send as x-apideck-app-id.
	Applications map[string]*Application `json:"applications,omitempty"`

	// The services that can be used, by unified API and service, `crm/hubspot`. A service
	// in the built-in catalogue needs only the OAuth client; values set here override the
	// catalogue.
	Connectors map[string]*ConnectorConfig `json:"connectors,omitempty"`

	// Directories of connector files, which add services to the built-in catalogue or
	// replace its entries. They are read when the configuration is loaded.
	Catalogs []string `json:"catalogs,omitempty"`

	// Where events are posted, such as that a connection cannot be refreshed.
	Webhooks []*WebhookConfig `json:"webhooks,omitempty"`

	// Limits on what callers can use.
	Limits LimitsConfig `json:"limits,omitzero"`

	// How tokens are refreshed.
	Refresh RefreshConfig `json:"refresh,omitzero"`

	// The local directory for token responses that the storage rejected or that arrived
	// while it was unreachable; they are stored later. Processes can share it. A change
	// takes effect when the process restarts. Default: `token-broker/journal` in Caddy's
	// data directory.
	Journal string `json:"journal,omitempty"`

	// How long a connection is cached before it is read from the storage again. Default:
	// `30s`.
	CacheTTL caddy.Duration `json:"cache_ttl,omitempty"`

	// Allow loopback and private addresses, and plain HTTP, for every connector and
	// webhook. For tests. Link-local and metadata addresses are always refused.
	AllowPrivateHosts bool `json:"allow_private_hosts,omitempty"`

	ctx       caddy.Context
	logger    *slog.Logger
	storage   storage.Storage
	byDefault bool // the storage is not configured
	keyring   *caller.Keyring
	config    *record.Config
	endpoints []webhook.Endpoint

	authorities *fields.Authorities // known once the app has started

	shared   *shared // never reset to nil, since requests may outlive the configuration
	poolKey  string
	acquired bool // holds a reference in the pool
}

// Application is an application that may call.
type Application struct {
	// The API keys that the application may authenticate with, as placeholders. Configure
	// two while a key is being rotated.
	APIKeys []string `json:"api_keys,omitempty"`

	// The maximum number of concurrent requests; -1 is no limit. Default: the limit for all
	// applications.
	AppConcurrency int `json:"app_concurrency,omitempty"`

	// The maximum size of a request body in bytes; -1 is no limit. Default: the limit for
	// all applications.
	RequestBody int64 `json:"request_body,omitempty"`
}

// RefreshConfig configures how tokens are refreshed.
type RefreshConfig struct {
	// The timeout of a request to a token endpoint. Default: `20s`.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	// How long a failing refresh is retried in the background. Default: `15m`.
	GiveUp caddy.Duration `json:"give_up,omitempty"`

	// How long the credentials of a connection that can no longer be refreshed are kept; -1
	// is forever. Default: `48h`.
	Retention caddy.Duration `json:"retention,omitempty"`

	// How long after its access token ran out a connection that is not called is refreshed;
	// -1 is never. Default: `24h`.
	Idle caddy.Duration `json:"idle,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: appName, New: func() caddy.Module { return new(App) }}
}

// Provision checks the configuration and resolves its secrets. It reads secret and connector
// files but does not open the storage.
func (a *App) Provision(ctx caddy.Context) error {
	a.ctx = ctx
	a.logger = ctx.Slogger()
	a.authorities = &fields.Authorities{}
	if err := a.provisionStorage(); err != nil {
		return err
	}
	if err := a.provisionApplications(); err != nil {
		return err
	}
	if err := a.provisionWebhooks(); err != nil {
		return err
	}
	if err := a.provisionConfig(); err != nil {
		return err
	}
	return a.acquire()
}

func (a *App) provisionStorage() error {
	if a.StorageRaw != nil {
		mod, err := a.ctx.LoadModule(a, "StorageRaw")
		if err != nil {
			return fmt.Errorf("storage: %w", err)
		}
		storage, ok := mod.(storage.Storage)
		if !ok {
			return fmt.Errorf("storage: %T is not a token broker storage", mod)
		}
		a.storage = storage
		return nil
	}
	mod, err := a.ctx.LoadModuleByID("token_broker.storage."+a.defaultStorage(), json.RawMessage("{}"))
	if err != nil {
		return fmt.Errorf("storage: %w", err)
	}
	a.storage, a.byDefault = mod.(storage.Storage), true
	return nil
}

// defaultStorage returns the name of the module that is used if no storage is configured.
func (a *App) defaultStorage() string {
	if os.Getenv("VAULT_ADDR") != "" {
		return "vault"
	}
	return "embedded"
}

func (a *App) provisionApplications() error {
	a.keyring = caller.NewKeyring()
	for _, name := range slices.Sorted(maps.Keys(a.Applications)) {
		if err := validateApplication(name); err != nil {
			return fmt.Errorf("app %q: %w", name, err)
		}
		app := a.Applications[name]
		if app == nil || len(app.APIKeys) == 0 {
			return fmt.Errorf("app %s: api_key is required", name)
		}
		for i, value := range app.APIKeys {
			key, err := placeholder.Secret(a.logger, fmt.Sprintf("app %s: api_key %d", name, i+1), value)
			if err != nil {
				return err
			}
			a.keyring.Add(name, key)
		}
	}
	return nil
}

// validateApplication returns an error if name cannot be sent as a header.
func validateApplication(name string) error {
	err := record.Key{Application: name, Consumer: "any"}.Validate()
	if input, ok := errors.AsType[*record.InputError](err); ok {
		return input
	}
	return nil // the error, if any, is about the rest of the key, which is made up
}

func (a *App) provisionConfig() error {
	for field, d := range map[string]caddy.Duration{
		"refresh: timeout": a.Refresh.Timeout, "refresh: give_up": a.Refresh.GiveUp, "cache_ttl": a.CacheTTL,
	} {
		if d < 0 {
			return fmt.Errorf("%s must not be negative", field)
		}
	}
	if err := a.checkLimits(); err != nil {
		return err
	}
	connectors, err := a.provisionConnectors()
	if err != nil {
		return err
	}
	a.config = &record.Config{
		Connectors:        connectors,
		RefreshTimeout:    time.Duration(a.Refresh.Timeout),
		RefreshGiveUp:     time.Duration(a.Refresh.GiveUp),
		Retention:         time.Duration(a.Refresh.Retention),
		RefreshIdle:       time.Duration(a.Refresh.Idle),
		CacheTTL:          time.Duration(a.CacheTTL),
		AllowPrivateHosts: a.AllowPrivateHosts,
		Limits:            a.brokerLimits(),
		Logger:            a.logger,
	}
	return nil
}

// Start makes the broker follow this configuration.
func (a *App) Start() error {
	a.shared.activate(a)
	a.shared.broker.Start()
	a.logger.LogAttrs(a.ctx, slog.LevelInfo, "connections are stored in "+a.storage.String(),
		slog.Bool("by_default", a.byDefault), slog.Int("connectors", len(a.config.Connectors)))
	a.warnOfOpenListeners()
	a.findServers()
	return nil
}

// Stop does nothing: requests of this configuration may still be in progress.
func (a *App) Stop() error { return nil }

// Cleanup releases the broker. The last configuration to do so waits until the refreshes in
// progress are finished and saved.
func (a *App) Cleanup() error {
	if !a.acquired {
		return nil
	}
	a.acquired = false
	return a.release()
}

// Broker returns the broker, which outlives this configuration.
func (a *App) Broker() *broker.Broker { return a.shared.broker }

// Config returns the broker's part of this configuration.
func (a *App) Config() *record.Config { return a.config }

// Authenticate checks the application id and API key in a request's header and returns the
// application.
func (a *App) Authenticate(header http.Header) (string, error) {
	return a.keyring.Authenticate(header)
}

// HasApplication reports whether the application is configured.
func (a *App) HasApplication(name string) bool { return a.keyring.Has(name) }

// FromContext returns the app of the configuration that is being provisioned.
func FromContext(ctx caddy.Context) (*App, error) {
	mod, err := ctx.AppIfConfigured(appName)
	if errors.Is(err, caddy.ErrNotConfigured) {
		return nil, fmt.Errorf("the global option token_broker is missing: add it to configure the storage, applications and connectors: %w", err)
	}
	if err != nil {
		return nil, err
	}
	return mod.(*App), nil
}

// Active returns the app of the running configuration. Admin routes call it for each
// request, since they are provisioned before apps, and also for configurations that never
// run.
func Active() (*App, error) {
	mod, err := caddy.ActiveContext().AppIfConfigured(appName)
	if errors.Is(err, caddy.ErrNotConfigured) {
		return nil, errors.New("the running configuration has no token_broker")
	}
	if err != nil {
		return nil, err
	}
	return mod.(*App), nil
}

// AllowsPrivate reports whether a connector's hosts may be private. Use separate transports
// for such connectors, so that others never reuse their open connections.
func (a *App) AllowsPrivate(id connector.ID) bool {
	config := a.shared.broker.Config()
	conn := config.Connectors[id]
	return conn != nil && config.AllowsPrivate(conn)
}

// Interface guards
var (
	_ caddy.App          = (*App)(nil)
	_ caddy.Provisioner  = (*App)(nil)
	_ caddy.CleanerUpper = (*App)(nil)
)
