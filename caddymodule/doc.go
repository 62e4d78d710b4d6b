// Package caddymodule registers the token broker's Caddy modules. Its packages parse and
// provision configuration, authenticate callers, and turn errors of package broker into
// HTTP responses; refreshing and storing tokens is the broker's business.
//
// The modules:
//
//	token_broker                              the app: storage, applications, connectors (package tokenbroker)
//	token_broker.storage.vault                stores connections in HashiCorp Vault (package storage)
//	token_broker.storage.embedded             stores connections in a local file (package storage)
//	http.handlers.connections_api             imports and manages connections (package connectionsapi)
//	http.handlers.downstream_proxy            the Proxy API (package proxy)
//	http.handlers.sandbox_provider            a provider to try things with (package sandbox)
//	http.reverse_proxy.transport.token_broker sends requests with a credential (package transport)
//	admin.api.token_broker                    health checks (package admin)
//
// Package command adds the subcommands `connectors`, `store`, `import`, `verify`, `export`,
// `status`, `activate` and `standby`.
//
// # Lifecycle
//
// Provision opens no connection, no store and no journal, and takes no lock. The only files
// that it reads are those that hold secrets, connector files in the directories of the
// option catalog, and certificates to trust. On a reload the new configuration is provisioned while the old one still
// serves, and requests of the old one may outlive it. The broker and the webhook dispatcher
// therefore live in a pool, keyed by storage, and follow the newest configuration that
// was started.
package caddymodule

import (
	// Each package registers its modules when it is imported.
	_ "github.com/tokenbroker/caddy-token-broker/caddymodule/admin"
	_ "github.com/tokenbroker/caddy-token-broker/caddymodule/command"
	_ "github.com/tokenbroker/caddy-token-broker/caddymodule/connectionsapi"
	_ "github.com/tokenbroker/caddy-token-broker/caddymodule/proxy"
	_ "github.com/tokenbroker/caddy-token-broker/caddymodule/sandbox"
	_ "github.com/tokenbroker/caddy-token-broker/caddymodule/storage"
	_ "github.com/tokenbroker/caddy-token-broker/caddymodule/tokenbroker"
	_ "github.com/tokenbroker/caddy-token-broker/caddymodule/transport"
)
