// Package tokenbroker registers the token broker's Caddy modules. Import it for its side effects,
// or build Caddy with it:
//
//	xcaddy build --with github.com/tokenbroker/caddy-token-broker
//
// Package broker explains the product; package caddymodule lists the modules.
package tokenbroker

import _ "github.com/tokenbroker/caddy-token-broker/caddymodule" // registers the modules
