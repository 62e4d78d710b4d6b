package connector

import (
	"fmt"
	"strings"
	"testing"
)

func TestAnswerPathsAreRead(t *testing.T) {
	t.Parallel()
	d := acme()
	d.Answer = map[string]string{"access_token": "data.0.token", "expires_at": "until unix_ms", "refresh_token": "no..path"}
	d.Capture = map[string]string{"site": "api.host"}
	if got, want := fmt.Sprint(d.AnswerPaths()), "map[access_token:{[data 0 token] } expires_at:{[until] unix_ms}]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := fmt.Sprint(d.CapturePaths()), "map[site:[api host]]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// A token endpoint can name a host, but only one that the connector allows anyway.
func TestCapturedSettingsObeyTheRulesOfHosts(t *testing.T) {
	t.Parallel()
	d := acme()
	d.BaseURL, d.AllowHosts = "{site}/v1", []string{"*.acme.test"}
	d.Settings = []Setting{{Name: "site", Origin: true, Required: true}, {Name: "key", Sensitive: true}, {Name: "account"}}
	d = d.WithDefaults()
	settings := map[string]any{"site": "https://a.acme.test"}
	for _, tt := range []struct {
		name, value string
		allowed     bool
	}{
		{"site", "https://b.acme.test", true},
		{"site", "https://b.acme.test/", true},
		{"site", "https://b.evil.test", false},
		{"site", "http://b.acme.test", false},
		{"site", "https://b.acme.test/path", false},
		{"account", "7", true},
		{"key", "secret", false},
		{"unknown", "x", false},
		{"account", strings.Repeat("7", 5000), false},
	} {
		if err := d.CheckCaptured(settings, tt.name, tt.value); (err == nil) != tt.allowed {
			t.Errorf("%s %.40s: got %v", tt.name, tt.value, err)
		}
	}
	if settings["site"] != "https://a.acme.test" {
		t.Error("the settings were changed")
	}
}

func TestExpiredResponses(t *testing.T) {
	t.Parallel()
	d := Definition{ExpiredStatuses: []int{403}, ExpiredBodies: []ExpiredBody{{200, "token_expired"}}}
	for status, want := range map[int]bool{401: true, 403: true, 200: false, 404: false} {
		if got := d.IsExpiredStatus(status); got != want {
			t.Errorf("%d: got %t", status, got)
		}
	}
	if !d.MayHaveExpiredBody(200) || d.MayHaveExpiredBody(201) {
		t.Error("MayHaveExpiredBody does not go by the status")
	}
	if !d.IsExpiredBody(200, []byte(`{"error":"token_expired"}`)) || d.IsExpiredBody(201, []byte("token_expired")) || d.IsExpiredBody(200, []byte("ok")) {
		t.Error("IsExpiredBody does not go by status and text")
	}
}

func TestHostSettingCanBeGivenInFull(t *testing.T) {
	t.Parallel()
	d := acme()
	d.BaseURL, d.Settings = "https://{shop}.myshopify.com/admin", []Setting{{Name: "shop", Required: true}}
	for value, want := range map[string]string{
		"acme":                    "https://acme.myshopify.com/admin",
		"acme.myshopify.com":      "https://acme.myshopify.com/admin",
		"Acme.MyShopify.com":      "https://acme.myshopify.com/admin",
		"acme.evil.com":           "",
		"a.acme.myshopify.com":    "",
		".myshopify.com":          "",
		"acme.myshopify.com.evil": "",
	} {
		got, err := renderBaseURL(&d, map[string]any{"shop": value})
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%s: got %s, %v", value, got, err)
		}
	}
}
