package connector_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
)

// A header can be a mebibyte of braces. Linear parsing takes milliseconds; quadratic parsing
// would let one request keep a processor busy for half a minute.
func TestTargetOfManyBracesIsReadInLinearTime(t *testing.T) {
	t.Parallel()
	many := strings.Repeat("{", 1<<20)
	began := time.Now()
	for _, url := range []string{
		"https://api.acme.test/" + many, "https://api.acme.test/" + many + "}", "https://api.acme.test/?" + many + "}", "https://" + many + "}.acme.test/",
	} {
		_, _ = connector.ParseTarget(url, "", "")
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
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
