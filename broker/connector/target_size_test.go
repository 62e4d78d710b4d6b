package connector_test

import (
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
)

// A header can be a mebibyte of braces. Reading it takes a few milliseconds if it is
// linear; otherwise it would be half a minute, and one request could keep a processor
// busy for so long.
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
