package boltstore

import (
	"bytes"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

func FuzzKeysAreEncodedReversibly(f *testing.F) {
	f.Add("app", "ann", "crm", "hubspot", "ann2")
	f.Add("a\x00", "\x00\x01", "\x00\xff", "", "\x00")
	f.Add("a", "", "\xff", "\x01", "a\x00\x01b")
	f.Fuzz(func(t *testing.T, application, consumer, unifiedAPI, serviceID, other string) {
		key := record.Key{
			Application: application, Consumer: consumer,
			Connector: connector.ID{UnifiedAPI: unifiedAPI, ServiceID: serviceID},
		}
		b := encodeKey(key)
		got, err := decodeKey(b)
		if err != nil || got != key {
			t.Errorf("decodeKey(%q) = %+v, %v; want %+v", b, got, err, key)
		}
		if !bytes.HasPrefix(b, encodePrefix(application, consumer)) {
			t.Errorf("%q does not begin with its consumer's prefix", b)
		}
		if other != "" && other != consumer && application != "" && bytes.HasPrefix(b, encodePrefix(application, other)) {
			t.Errorf("%q begins with the prefix of consumer %q", b, other)
		}
	})
}

func TestMalformedKeysAreErrors(t *testing.T) {
	t.Parallel()
	for _, b := range []string{"", "a", "a\x00", "a\x00\x01", "a\x00\x02", "a\x00\x01b\x00\x01c\x00\x01d\x00\x01e"} {
		if key, err := decodeKey([]byte(b)); err == nil {
			t.Errorf("decodeKey(%q) = %v, want an error", b, key)
		}
	}
}
