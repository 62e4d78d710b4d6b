// Package caddymodule is the token broker as Caddy modules: it parses and provisions
// configuration, authenticates callers, and turns the errors of package broker into
// HTTP. What a token is and how it is kept fresh, it does not know.
//
// The modules are the app token_broker, the storages token_broker.storage.vault and
// token_broker.storage.embedded, the handler http.handlers.connections_api, the
// transport http.reverse_proxy.transport.token_broker, and the admin routes
// admin.api.token_broker.
//
// # Lifecycle
//
// Provision opens nothing: no network, no lock, no file but those that hold secrets.
// On a reload the new configuration is provisioned while the old one still serves, and
// requests of the old one outlive it. So the broker and the webhook dispatcher live in
// a pool, keyed by what they are stored in, and outlive any configuration; the newest
// one that was started tells them what to do.
package caddymodule
