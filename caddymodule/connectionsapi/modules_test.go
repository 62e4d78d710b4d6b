package connectionsapi_test

import _ "github.com/tokenbroker/caddy-token-broker/caddymodule" // registers the modules under test
