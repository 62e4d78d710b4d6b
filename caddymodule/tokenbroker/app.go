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
	"github.com/tokenbroker/caddy-token-broker/broker/webhook"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/caller"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/placeholder"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/storage"
)

func init() {
	caddy.RegisterModule(App{})
}

// appName is the module ID of [App], and the global option's name.
const appName = "token_broker"

// App keeps the OAuth tokens of connections fresh and lends them to handlers and
// transports of this server. It holds what operators decide: where connections are
// stored, which applications may call, which services can be used.
type App struct {
	// Where connections are stored. Default: in Vault if VAULT_ADDR is set, otherwise
	// in an encrypted file of its own (embedded).
	StorageRaw json.RawMessage `json:"storage,omitempty" caddy:"namespace=token_broker.storage inline_key=module"`

	// The callers, by the id that they send as x-apideck-app-id.
	Applications map[string]*Application `json:"applications,omitempty"`

	// The services that can be used, by unified API and service, "crm/hubspot". One
	// that the built-in catalogue knows needs no more than the OAuth client; whatever
	// is set here wins over the catalogue.
	Connectors map[string]*ConnectorConfig `json:"connectors,omitempty"`

	// Directories of connector files, which say more of what services there are, or
	// replace what the built-in catalogue says. They are read with the configuration.
	Catalogs []string `json:"catalogs,omitempty"`

	// Who is told of connections that cannot be refreshed.
	Webhooks []*WebhookConfig `json:"webhooks,omitempty"`

	// How much callers may use up.
	Limits LimitsConfig `json:"limits,omitzero"`

	// How tokens are refreshed.
	Refresh RefreshConfig `json:"refresh,omitzero"`

	// The directory, on a disk of this machine, for what the storage could not take: new
	// tokens of a refresh that ended while it was out of reach. Processes can share it.
	// A change takes effect when the process starts anew. Default: token-broker/journal
	// in Caddy's data directory.
	Journal string `json:"journal,omitempty"`

	// How long a connection that was read is used before the storage is asked again.
	// Default: `30s`.
	CacheTTL caddy.Duration `json:"cache_ttl,omitempty"`

	// Let the hosts of every connector and webhook be loopback or private addresses,
	// and speak plain HTTP. For tests. Link-local and metadata addresses stay refused.
	AllowPrivateHosts bool `json:"allow_private_hosts,omitempty"`

	ctx       caddy.Context
	logger    *slog.Logger
	storage   storage.Storage
	byDefault bool // nobody chose the storage
	keyring   *caller.Keyring
	config    *broker.Config
	endpoints []webhook.Endpoint

	shared   *shared // outlives the configuration, as do requests: never set to nil
	poolKey  string
	acquired bool // of the pool
}

// Application is a caller.
type Application struct {
	// The keys that the application may authenticate with, as placeholders. With two,
	// the old and the new one overlap while they are rotated.
	APIKeys []string `json:"api_keys,omitempty"`

	// How many of its requests may be under way at a time; -1 is no limit. Default: as
	// the limits for all applications say.
	AppConcurrency int `json:"app_concurrency,omitempty"`

	// How large the body of one request may be, in bytes; -1 is no limit. Default: as the
	// limits for all applications say.
	RequestBody int64 `json:"request_body,omitempty"`
}

// RefreshConfig says how tokens are refreshed.
type RefreshConfig struct {
	// How long one request to a token endpoint may take. Default: `20s`.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	// How long a refresh that fails is tried again in the background. Default: `15m`.
	GiveUp caddy.Duration `json:"give_up,omitempty"`

	// How long the credentials of a connection are kept that cannot be refreshed any
	// more; -1 is for ever. Default: `48h`.
	Retention caddy.Duration `json:"retention,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: appName, New: func() caddy.Module { return new(App) }}
}

// Provision checks the configuration and resolves its secrets. It opens nothing.
func (a *App) Provision(ctx caddy.Context) error {
	a.ctx = ctx
	a.logger = ctx.Slogger()
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
			return fmt.Errorf("storage: %T is not a storage of the token broker", mod)
		}
		a.storage = storage
		return nil
	}
	id := storage.Embedded{}.CaddyModule().ID
	if os.Getenv("VAULT_ADDR") != "" {
		id = storage.Vault{}.CaddyModule().ID
	}
	mod, err := a.ctx.LoadModuleByID(string(id), json.RawMessage("{}"))
	if err != nil {
		return fmt.Errorf("storage: %w", err)
	}
	a.storage, a.byDefault = mod.(storage.Storage), true
	return nil
}

func (a *App) provisionApplications() error {
	a.keyring = caller.NewKeyring()
	for _, name := range slices.Sorted(maps.Keys(a.Applications)) {
		if err := validateApplication(name); err != nil {
			return fmt.Errorf("app %q: %w", name, err)
		}
		app := a.Applications[name]
		if app == nil || len(app.APIKeys) == 0 {
			return fmt.Errorf("app %s: has no api_key: nobody could call as it", name)
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

// validateApplication reports whether callers could send name as a header.
func validateApplication(name string) error {
	err := broker.Key{Application: name, Consumer: "any"}.Validate()
	if input, ok := errors.AsType[*broker.InputError](err); ok {
		return input
	}
	return nil // the rest of the key is made up
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
	a.config = &broker.Config{
		Connectors:        connectors,
		RefreshTimeout:    time.Duration(a.Refresh.Timeout),
		RefreshGiveUp:     time.Duration(a.Refresh.GiveUp),
		Retention:         time.Duration(a.Refresh.Retention),
		CacheTTL:          time.Duration(a.CacheTTL),
		AllowPrivateHosts: a.AllowPrivateHosts,
		Limits:            a.brokerLimits(),
		Logger:            a.logger,
	}
	return nil
}

// Start makes this the configuration that the broker goes by.
func (a *App) Start() error {
	a.shared.activate(a)
	a.shared.broker.Recover()
	a.logger.LogAttrs(a.ctx, slog.LevelInfo, "connections are stored in "+a.storage.String(),
		slog.Bool("by_default", a.byDefault), slog.Int("connectors", len(a.config.Connectors)))
	a.warnOfOpenListeners()
	return nil
}

// Stop does nothing: requests of this configuration can still be under way.
func (a *App) Stop() error { return nil }

// Cleanup gives up this configuration's hold on the broker. The last one to do so
// waits until refreshes under way are finished and saved.
func (a *App) Cleanup() error {
	if !a.acquired {
		return nil
	}
	a.acquired = false
	return a.release()
}

// Broker returns the broker, which outlives this configuration.
func (a *App) Broker() *broker.Broker { return a.shared.broker }

// Config returns what this configuration tells the broker.
func (a *App) Config() *broker.Config { return a.config }

// Authenticate returns the application whose id and API key a request's header has.
func (a *App) Authenticate(header http.Header) (string, error) {
	return a.keyring.AuthenticateHeader(header)
}

// HasApplication reports whether there is such an application.
func (a *App) HasApplication(name string) bool { return a.keyring.Has(name) }

// FromContext returns the app of the configuration that ctx belongs to.
func FromContext(ctx caddy.Context) (*App, error) {
	mod, err := ctx.AppIfConfigured(appName)
	if errors.Is(err, caddy.ErrNotConfigured) {
		return nil, fmt.Errorf("the global option token_broker is missing: it says where connections are stored and who may call: %w", err)
	}
	if err != nil {
		return nil, err
	}
	return mod.(*App), nil
}

// Active returns the app of the running configuration. It is looked up for each
// request: admin routes are provisioned before apps, and not only for configurations
// that come to run.
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

// AllowsPrivate reports whether a connector's hosts may be private. Those have a transport
// of their own, so that a connection which it keeps open is used by no other connector.
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
