package brokertest

import (
	"bytes"
	"strings"
	"testing"
)

// Canaries are parts of the secrets that tests use. Tests search output for them to find
// leaks.
const (
	AccessCanary       = "CANARYaccessCANARY"
	RefreshCanary      = "CANARYrefreshCANARY"
	ClientSecretCanary = "CANARYclientsecretCANARY"
	APIKeyCanary       = "CANARYapikeyCANARY"
	SettingCanary      = "CANARYsettingCANARY"
	WebhookCanary      = "CANARYwebhookCANARY"
)

// NoCanary fails the test if output contains a canary, in upper or lower case. what names
// the output in the failure.
func NoCanary(t testing.TB, what string, output []byte) {
	t.Helper()
	lower := bytes.ToLower(output)
	for _, canary := range []string{AccessCanary, RefreshCanary, ClientSecretCanary, APIKeyCanary, SettingCanary, WebhookCanary} {
		if i := bytes.Index(lower, []byte(strings.ToLower(canary))); i >= 0 {
			t.Errorf("%s contains the secret %s: ...%s...", what, canary, output[max(0, i-80):min(len(output), i+80)])
		}
	}
}
