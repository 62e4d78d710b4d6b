package caddymodule

import (
	"strings"
	"testing"
)

func TestWebhookThatWaitsForNoEventIsWarnedOf(t *testing.T) {
	t.Setenv("TEST_WEBHOOK_SECRET", strings.Repeat("s", 32))
	options, log := globals(t, brokerLines(t, t.TempDir(), `webhook https://ops.acme.test/hooks {
		secret {env.TEST_WEBHOOK_SECRET}
		events vault.conection.* vault.connection.token_refresh.* vault.connection.token_refresh.failed
	}`))
	run(t, options)
	const warning = "waits for events that the token broker does not send"
	got := logged(t, log)
	if strings.Count(got, warning) != 1 || !strings.Contains(got, `"vault.conection.*"`) {
		t.Errorf("got the log %s, want one warning, of the misspelt pattern", got)
	}
}
