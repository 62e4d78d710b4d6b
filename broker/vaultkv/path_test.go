package vaultkv

import (
	"strings"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

func TestPathsOfConnections(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 95)
	for _, test := range []struct{ application, consumer, want string }{
		{"app", "ann", "app/ann/crm.hubspot"},
		{"a/b", "..", "a~2Fb/~2E~2E/crm.hubspot"},
		{"a b", "é~%2e", "a~20b/~C3~A9~7E~252e/crm.hubspot"},
		{"app", long + "y", "app/" + long + "y/crm.hubspot"},
		{"app", long + "yz", "app/" + long + "~/yz/crm.hubspot"},
		{"app", long[:94] + "/y", "app/" + long[:94] + "~/~2Fy/crm.hubspot"},
		{"app", long[:93] + "/y", "app/" + long[:93] + "~/~2Fy/crm.hubspot"},
		{"app", long[:92] + "/yz", "app/" + long[:92] + "~2F~/yz/crm.hubspot"},
	} {
		key := record.Key{
			Application: test.application, Consumer: test.consumer,
			Connector: connector.ID{UnifiedAPI: "crm", ServiceID: "hubspot"},
		}
		if got := connectionPath(key); got != test.want {
			t.Errorf("connectionPath(%s) =\n%s, want\n%s", key, got, test.want)
		}
	}
}

func FuzzPathsAreReversible(f *testing.F) {
	f.Add("app", "ann", "crm", "hubspot")
	f.Add("a/b", "c", "a.b", "c")
	f.Add("~2F", strings.Repeat("~", 255), strings.Repeat("a", 64), strings.Repeat("b", 64))
	f.Add(strings.Repeat("x", 94)+"/", strings.Repeat("ö", 127), "\x00", "\xff")
	f.Fuzz(func(t *testing.T, application, consumer, unifiedAPI, serviceID string) {
		if application == "" || consumer == "" || unifiedAPI == "" || serviceID == "" {
			t.Skip("the store refuses empty parts")
		}
		key := record.Key{
			Application: application, Consumer: consumer,
			Connector: connector.ID{UnifiedAPI: unifiedAPI, ServiceID: serviceID},
		}
		path := connectionPath(key)
		got, err := parsePath(path)
		if err != nil || got != key {
			t.Errorf("parsePath(%q) = %+v, %v; want %+v", path, got, err, key)
		}
		for segment := range strings.SplitSeq(path, "/") {
			if segment == "" || len(segment) > maxSegment {
				t.Errorf("%q has a segment of %d bytes, want 1 to %d", path, len(segment), maxSegment)
			}
		}
	})
}

func TestForeignPathsAreNotConnections(t *testing.T) {
	t.Parallel()
	for _, path := range []string{
		"", "a", "a/b", "a/b/c.d/e", "a//c.d", "a/b/c", "a/b/c.d~", "a/b~/c.d", "a/~2/c.d", "a/~2f/c.d", "a/~61/c.d", "a/b c/c.d",
		"a/b/c.d/", "~/a/b/c.d",
	} {
		if key, err := parsePath(path); err == nil {
			t.Errorf("parsePath(%q) = %v, want an error", path, key)
		}
	}
}

func TestMountAndPrefixArePaths(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{"secret": "secret", "/team-a/kv/": "team-a/kv"} {
		if got, err := cleanPath(path); got != want || err != nil {
			t.Errorf("cleanPath(%q) = %q, %v; want %q", path, got, err, want)
		}
	}
	for _, path := range []string{"", "/", "a//b", "..", "a/../b", ".", "a b", "a?b", "a#b", "a%2Fb", "a*", "+", "ä"} {
		if got, err := cleanPath(path); err == nil {
			t.Errorf("cleanPath(%q) = %q, want an error", path, got)
		}
	}
}
