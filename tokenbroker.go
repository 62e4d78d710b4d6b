// Package tokenbroker is the Caddy module of the token broker: import it for its
// side effects, or build Caddy with it,
//
//	xcaddy build --with github.com/tokenbroker/caddy-token-broker
//
// The product is explained by the package broker; the modules are in caddymodule.
package tokenbroker

import _ "github.com/tokenbroker/caddy-token-broker/caddymodule" // registers the modules
