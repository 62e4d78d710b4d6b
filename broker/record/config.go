package record

import (
	"cmp"
	"fmt"
	"log/slog"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
)

// A Config is the configuration of a broker, which can be replaced at any time. A refresh
// in progress keeps the one that it began with, so a Config must not be changed once the
// broker has it.
type Config struct {
	// Connectors are the services that connections can use, by id.
	Connectors map[connector.ID]*Connector

	// RefreshTimeout is the timeout of one request to a token endpoint. Default: 20s.
	RefreshTimeout time.Duration

	// RefreshGiveUp is how long a failing refresh is retried in the background. Default: 15m.
	RefreshGiveUp time.Duration

	// Retention is how long the credentials of a connection that can no longer be refreshed
	// are kept. Default: 48h; negative: for ever.
	Retention time.Duration

	// RefreshIdle is how long after its access token ran out an idle connection is refreshed.
	// Default: 24h; negative: never.
	RefreshIdle time.Duration

	// CacheTTL is how long a record is used before it is read from the store again.
	// Default: 30s.
	CacheTTL time.Duration

	// AllowPrivateHosts lets the hosts of every connector be on loopback or private
	// addresses and speak plain HTTP. For tests.
	AllowPrivateHosts bool

	// Limits bound the requests in progress.
	Limits Limits

	// Events receives events. If nil, they are only logged.
	Events EventSink

	// Logger receives operational messages. If nil, they are discarded.
	Logger *slog.Logger
}

// The defaults of a [Config].
const (
	DefaultRefreshTimeout = 20 * time.Second
	defaultRefreshGiveUp  = 15 * time.Minute
	defaultRetention      = 48 * time.Hour
	defaultRefreshIdle    = 24 * time.Hour
	DefaultCacheTTL       = 30 * time.Second
)

// RequestTimeout returns RefreshTimeout or its default.
func (c *Config) RequestTimeout() time.Duration {
	return orDefault(c.RefreshTimeout, DefaultRefreshTimeout)
}

// GiveUpAfter returns RefreshGiveUp or its default.
func (c *Config) GiveUpAfter() time.Duration {
	return orDefault(c.RefreshGiveUp, defaultRefreshGiveUp)
}

// CacheFor returns CacheTTL or its default.
func (c *Config) CacheFor() time.Duration { return orDefault(c.CacheTTL, DefaultCacheTTL) }

// RetainFor returns Retention or its default, 0 for ever.
func (c *Config) RetainFor() time.Duration { return unlessOff(c.Retention, defaultRetention) }

// RefreshIdleAfter returns RefreshIdle or its default, 0 for never.
func (c *Config) RefreshIdleAfter() time.Duration {
	return unlessOff(c.RefreshIdle, defaultRefreshIdle)
}

// unlessOff is orDefault for a duration that can be negative, which is 0.
func unlessOff(d, def time.Duration) time.Duration {
	if d < 0 {
		return 0
	}
	return orDefault(d, def)
}

func orDefault(d, def time.Duration) time.Duration {
	if d <= 0 {
		return def
	}
	return d
}

// Log returns Logger, or one that discards everything.
func (c *Config) Log() *slog.Logger {
	if c.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return c.Logger
}

// AllowsPrivate reports whether the connector's hosts may be on private addresses and
// speak plain HTTP.
func (c *Config) AllowsPrivate(conn *Connector) bool {
	return c.AllowPrivateHosts || conn.AllowPrivate
}

// MayAllow reports whether some connection of the connector might be allowed to send its
// credential to the target.
func (c *Config) MayAllow(conn *Connector, target *connector.Target) bool {
	return c.DefinitionOf(conn).MayAllow(target)
}

// DefinitionOf returns the connector's definition with AllowPrivateHosts applied.
func (c *Config) DefinitionOf(conn *Connector) *connector.Definition {
	if c.AllowsPrivate(conn) == conn.AllowPrivate {
		return &conn.Definition
	}
	private := conn.Definition
	private.AllowPrivate = true
	return &private
}

// ConnectorOf returns the connector of key's connection. Errors: [*InputError],
// [ErrConnectorNotFound].
func (c *Config) ConnectorOf(key Key) (*Connector, error) {
	if err := key.Validate(); err != nil {
		return nil, err
	}
	return c.Configured(key.Connector)
}

// Configured returns a connector by id. Its error is [ErrConnectorNotFound].
func (c *Config) Configured(id connector.ID) (*Connector, error) {
	conn, ok := c.Connectors[id]
	if !ok {
		return nil, fmt.Errorf("%w: %s has no connector block in the configuration", ErrConnectorNotFound, id)
	}
	return conn, nil
}

// Limits are the maximum numbers of concurrent requests. They keep one customer, or one
// application, from using up resources that all share; services themselves usually allow
// far fewer. 0 is the default, a negative number no limit.
type Limits struct {
	// Connection is the limit of each connection. Default: 10000.
	Connection int

	// Application is the limit of each application, over all its connections. Default: 20000.
	Application int

	// Applications overrides Application, by application.
	Applications map[string]int
}

// The defaults of [Limits]. They stop leaks, and are high enough for a burst of callers
// that wait for one refresh.
const (
	defaultConnectionLimit  = 10_000
	defaultApplicationLimit = 20_000
)

// PerConnection returns the limit of each connection.
func (l *Limits) PerConnection() int { return cmp.Or(l.Connection, defaultConnectionLimit) }

// PerApplication returns the limit of an application.
func (l *Limits) PerApplication(name string) int {
	return cmp.Or(l.Applications[name], l.Application, defaultApplicationLimit)
}
