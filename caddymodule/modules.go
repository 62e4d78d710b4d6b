package caddymodule

// The modules register themselves.
import (
	_ "github.com/tokenbroker/caddy-token-broker/caddymodule/admin"
	_ "github.com/tokenbroker/caddy-token-broker/caddymodule/command"
	_ "github.com/tokenbroker/caddy-token-broker/caddymodule/connectionsapi"
	_ "github.com/tokenbroker/caddy-token-broker/caddymodule/proxy"
	_ "github.com/tokenbroker/caddy-token-broker/caddymodule/sandbox"
	_ "github.com/tokenbroker/caddy-token-broker/caddymodule/storage"
	_ "github.com/tokenbroker/caddy-token-broker/caddymodule/tokenbroker"
	_ "github.com/tokenbroker/caddy-token-broker/caddymodule/transport"
)
