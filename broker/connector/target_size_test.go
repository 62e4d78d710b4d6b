package connector_test

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
)

// A header can be a mebibyte of braces. Quadratic parsing would let one request keep a processor
// busy for half a minute: 64 times as many would take 4,096 times as long.
func TestTargetOfManyBracesIsReadInLinearTime(t *testing.T) {
	for _, url := range []string{"https://api.acme.test/{", "https://api.acme.test/{}", "https://api.acme.test/?{}", "https://{}.acme.test/"} {
		few, many := time.Duration(math.MaxInt64), time.Duration(math.MaxInt64)
		for range 3 { // the shortest of several is the least disturbed
			few, many = min(few, timeToParse(url, 1<<14)), min(many, timeToParse(url, 1<<20))
		}
		if many > 1024*few {
			t.Errorf("%s: %s for 64 times what takes %s", url, many, few)
		}
	}
}

// timeToParse returns how long the URL takes with n opening braces in place of each.
func timeToParse(url string, n int) time.Duration {
	url = strings.ReplaceAll(url, "{", strings.Repeat("{", n))
	began := time.Now()
	_, _ = connector.ParseTarget(url, "", "")
	return time.Since(began)
}

// A long setting that a target names often enough would exhaust the memory.
func TestSettingsDoNotMakeATargetGrowWithoutBound(t *testing.T) {
	t.Parallel()
	def := connector.Definition{
		ID: connector.ID{UnifiedAPI: "crm", ServiceID: "acme"}, BaseURL: "https://api.acme.test",
	}
	d := def.WithDefaults()
	settings := map[string]any{"x": strings.Repeat("a", 200_000)}
	for _, url := range []string{"https://api.acme.test/?q=", "https://api.acme.test/"} {
		target, err := connector.ParseTarget(url+strings.Repeat("{x}", 300_000), "", "")
		if err != nil {
			t.Fatal(err)
		}
		_, err = d.RenderTarget(target, settings)
		if fault, ok := errors.AsType[*connector.SettingError](err); !ok || fault.Setting != "x" {
			t.Errorf("%s: got %v, want that the setting makes it too long", url, err)
		}
		target, err = connector.ParseTarget(url+"{x}{x}{x}", "", "")
		if err != nil {
			t.Fatal(err)
		}
		if u, err := d.RenderTarget(target, settings); err != nil || len(u.String()) < 600_000 {
			t.Errorf("%s: got %v, want a URL of 600000 bytes", url, err)
		}
	}
}
