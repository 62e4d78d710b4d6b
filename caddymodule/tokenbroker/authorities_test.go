package tokenbroker

import (
	"slices"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func TestSitesOfNestedRoutesAreTheServers(t *testing.T) {
	t.Parallel()
	matches := func(name string) caddyhttp.MatcherSets {
		return caddyhttp.MatcherSets{{&caddyhttp.MatchHost{name}}}
	}
	inner := caddyhttp.Route{MatcherSets: matches("inner.test")}
	got := hostsOf(caddyhttp.RouteList{
		{MatcherSets: matches("outer.test")},
		{Handlers: []caddyhttp.MiddlewareHandler{&caddyhttp.Subroute{Routes: caddyhttp.RouteList{inner}}}},
	})
	if slices.Sort(got); !slices.Equal(got, []string{"inner.test", "outer.test"}) {
		t.Errorf("got %q", got)
	}
}
