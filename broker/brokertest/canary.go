package brokertest

import (
	"bytes"
	"strings"
	"testing"
)

// Canaries are parts of secrets that tests use, by which a leak is found wherever it
// surfaces.
const (
	AccessCanary       = "CANARYaccessCANARY"
	RefreshCanary      = "CANARYrefreshCANARY"
	ClientSecretCanary = "CANARYclientsecretCANARY"
	APIKeyCanary       = "CANARYapikeyCANARY"
	SettingCanary      = "CANARYsettingCANARY"
	WebhookCanary      = "CANARYwebhookCANARY"
)

// NoCanary fails the test if output, which what names, has a canary in it, whatever
// its case.
func NoCanary(t testing.TB, what string, output []byte) {
	t.Helper()
	lower := bytes.ToLower(output)
	for _, canary := range []string{AccessCanary, RefreshCanary, ClientSecretCanary, APIKeyCanary, SettingCanary, WebhookCanary} {
		if i := bytes.Index(lower, []byte(strings.ToLower(canary))); i >= 0 {
			t.Errorf("%s has the secret %s in it: ...%s...", what, canary, output[max(0, i-80):min(len(output), i+80)])
		}
	}
}
