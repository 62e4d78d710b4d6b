// Package caddymodule is the token broker as Caddy modules: it parses and provisions
// configuration, authenticates callers, and turns the errors of package broker into
// HTTP. What a token is and how it is kept fresh, it does not know.
//
// The modules are the app token_broker, the storages token_broker.storage.vault and
// token_broker.storage.embedded, the handlers http.handlers.connections_api and
// http.handlers.downstream_proxy, the transport
// http.reverse_proxy.transport.token_broker, and the admin routes
// admin.api.token_broker. The subpackage sandbox adds http.handlers.sandbox_provider.
//
// # Lifecycle
//
// Provision opens no connection, no store and no journal, and takes no lock. The only
// files that it reads are those that hold secrets, connector files in the directories of
// the option catalog, and certificates to trust.
//
// On a reload the new configuration is provisioned while the old one still serves, and
// requests of the old one outlive it. So the broker and the webhook dispatcher live in
// a pool, keyed by what they are stored in, and outlive any configuration; the newest
// one that was started tells them what to do.
package caddymodule
