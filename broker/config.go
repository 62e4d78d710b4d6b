package broker

import (
	"cmp"
	"fmt"
	"log/slog"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// A Config is what operators decide. It may be replaced at any time with
// [Broker.Configure]; a refresh under way keeps what it began with. A Config is not
// changed after it was handed over.
type Config struct {
	// Connectors are the services that can be used, by id.
	Connectors map[connector.ID]*record.Connector

	// RefreshTimeout bounds one request to a token endpoint. Default: 20s.
	RefreshTimeout time.Duration

	// RefreshGiveUp is how long a background refresh is retried. Default: 15m.
	RefreshGiveUp time.Duration

	// Retention is how long the credentials of a connection are kept that cannot be
	// refreshed any more. Default: 48h; negative: for ever.
	Retention time.Duration

	// CacheTTL is how long a record that was read is used without asking the store
	// again. Default: 30s.
	CacheTTL time.Duration

	// AllowPrivateHosts lets token endpoints of every connector be on loopback or
	// private addresses and speak plain HTTP. For tests.
	AllowPrivateHosts bool

	// Limits bound the requests that are under way.
	Limits Limits

	// Events takes the events. Default: nobody.
	Events record.EventSink

	// Logger takes what operators should know. Default: nobody.
	Logger *slog.Logger
}

// The defaults of a [Config].
const (
	DefaultRefreshTimeout = 20 * time.Second
	defaultRefreshGiveUp  = 15 * time.Minute
	defaultRetention      = 48 * time.Hour
	DefaultCacheTTL       = 30 * time.Second
)

func (c *Config) refreshTimeout() time.Duration {
	return orDefault(c.RefreshTimeout, DefaultRefreshTimeout)
}

func (c *Config) refreshGiveUp() time.Duration {
	return orDefault(c.RefreshGiveUp, defaultRefreshGiveUp)
}

func (c *Config) cacheTTL() time.Duration { return orDefault(c.CacheTTL, DefaultCacheTTL) }

func (c *Config) retention() time.Duration {
	if c.Retention < 0 {
		return 0
	}
	return orDefault(c.Retention, defaultRetention)
}

func orDefault(d, def time.Duration) time.Duration {
	if d <= 0 {
		return def
	}
	return d
}

func (c *Config) logger() *slog.Logger {
	if c.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return c.Logger
}

// AllowsPrivate reports whether the connector's hosts may be private and plain HTTP.
func (c *Config) AllowsPrivate(conn *record.Connector) bool {
	return c.AllowPrivateHosts || conn.AllowPrivate
}

// MayAllow reports whether some connection of the connector may send its credential to
// the target.
func (c *Config) MayAllow(conn *record.Connector, target *connector.Target) bool {
	return c.definition(conn).MayAllow(target)
}

// definition returns the connector's definition as AllowPrivateHosts has it.
func (c *Config) definition(conn *record.Connector) *connector.Definition {
	if c.AllowsPrivate(conn) == conn.AllowPrivate {
		return &conn.Definition
	}
	private := conn.Definition
	private.AllowPrivate = true
	return &private
}

// connector returns the connector of key's connection, or an error if key cannot
// name a connection or the configuration has no such connector.
func (c *Config) connector(key record.Key) (*record.Connector, error) {
	if err := key.Validate(); err != nil {
		return nil, err
	}
	return c.configured(key.Connector)
}

func (c *Config) configured(id connector.ID) (*record.Connector, error) {
	conn, ok := c.Connectors[id]
	if !ok {
		return nil, fmt.Errorf("%w: %s; known are those that the configuration has a connector block for", record.ErrConnectorNotFound, id)
	}
	return conn, nil
}

// Limits bound how many requests are under way at a time. They keep one customer, or
// one application, from using up what all share; what a service itself allows is far
// less as a rule. 0 is the default, a negative number no limit.
type Limits struct {
	// Connection is for each connection. Default: 10000.
	Connection int

	// Application is for all connections of an application together. Default: 20000.
	Application int

	// Applications are for applications that have one of their own.
	Applications map[string]int
}

// The defaults of [Limits]. They bound what hangs. Callers that all come at once, and wait
// for one refresh, are to get their token.
const (
	defaultConnectionLimit  = 10_000
	defaultApplicationLimit = 20_000
)

func (l *Limits) connection() int { return cmp.Or(l.Connection, defaultConnectionLimit) }

func (l *Limits) application(name string) int {
	return cmp.Or(l.Applications[name], l.Application, defaultApplicationLimit)
}
