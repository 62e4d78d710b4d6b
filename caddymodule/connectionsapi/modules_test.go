package connectionsapi_test

import _ "github.com/tokenbroker/caddy-token-broker/caddymodule" // the modules that the tests configure
