package proxy

import (
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

func TestProxyDirectiveIsParsed(t *testing.T) {
	for config, want := range map[string]string{
		"downstream_proxy": "",
		"downstream_proxy {\ntimeout 1s\nmax_timeout 5s\n}": "",
		"downstream_proxy {\nmax_connection_age 1m\n}":      "", "downstream_proxy {\nmax_connection_age off\n}": "",
		"downstream_proxy {\nmax_connection_age 0s\n}": "must be longer", "downstream_proxy {\nmax_connection_age off\nmax_connection_age 1m\n}": "already set",
		"downstream_proxy x":                                 "wrong argument count",
		"downstream_proxy {\ntimeout\n}":                     "timeout takes one argument",
		"downstream_proxy {\ntimeout x\n}":                   "not a duration",
		"downstream_proxy {\ntimeout 1s\ntimeout 2s\n}":      "already set",
		"downstream_proxy {\nwhatever\n}":                    "unrecognized subdirective",
		"downstream_proxy {\ntls_trust_pool\n}":              "wrong argument count",
		"downstream_proxy {\ntls_trust_pool no-such-pool\n}": "no-such-pool",
		"downstream_proxy {\ntimeout -1s\n}":                 "must be longer",
	} {
		err := new(Handler).UnmarshalCaddyfile(caddyfile.NewTestDispenser(config))
		switch {
		case err == nil && want != "":
			t.Errorf("%q: there is no error, want %s", config, want)
		case err != nil && (want == "" || !strings.Contains(err.Error(), want)):
			t.Errorf("%q: got %v, want %s", config, err, want)
		}
	}
}
