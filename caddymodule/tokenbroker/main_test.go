package tokenbroker_test

import (
	"os"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/caddymodule/internal/caddytest"
)

func TestMain(m *testing.M) { os.Exit(caddytest.Main(m)) }
