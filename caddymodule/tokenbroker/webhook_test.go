package tokenbroker

import (
	"strings"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/caddymodule/internal/caddytest"
)

func TestWebhookThatWaitsForNoEventIsWarnedOf(t *testing.T) {
	t.Setenv("TEST_WEBHOOK_SECRET", strings.Repeat("s", 32))
	options, log := caddytest.Globals(t, caddytest.BrokerLines(t, t.TempDir(), `webhook https://ops.acme.test/hooks {
		secret {env.TEST_WEBHOOK_SECRET}
		events vault.conection.* vault.connection.token_refresh.* vault.connection.token_refresh.failed
	}`))
	caddytest.Run(t, options)
	const warning = "subscribes to events that the token broker does not send"
	got := caddytest.Logged(t, log)
	if strings.Count(got, warning) != 1 || !strings.Contains(got, `"vault.conection.*"`) {
		t.Errorf("got the log %s, want one warning, of the misspelt pattern", got)
	}
}
