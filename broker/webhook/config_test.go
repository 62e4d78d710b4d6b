package webhook

import (
	"strings"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

func TestEndpointsAreChecked(t *testing.T) {
	t.Parallel()
	secret := secret.New("s")
	tests := []struct {
		e    Endpoint
		want string
	}{
		{Endpoint{URL: "https://a.test/s3cret", Secret: secret}, ""},
		{Endpoint{URL: "http://a.test/s3cret", Secret: secret, AllowPrivate: true, Events: []string{"*", "vault.*", "vault.connection.created"}}, ""},
		{Endpoint{URL: "http://a.test/s3cret", Secret: secret}, "webhook http://a.test: the URL must begin with https://"},
		{Endpoint{URL: "ftp://a.test/s3cret", Secret: secret, AllowPrivate: true}, "must begin with https://"},
		{Endpoint{URL: "https://u:s3cret@a.test/s3cret"}, "webhook https://a.test: secret is required"},
		{Endpoint{URL: "https://a.test/s3cret%zz", Secret: secret}, "the URL is not valid"},
		{Endpoint{URL: "/s3cret", Secret: secret}, "the URL is not valid"},
		{Endpoint{URL: "", Secret: secret}, "the URL is not valid"},
		{Endpoint{URL: "https://a.test/", Secret: secret, Events: []string{"vault.*.failed"}}, `events: "vault.*.failed"`},
		{Endpoint{URL: "https://a.test/", Secret: secret, Events: []string{""}}, `events: ""`},
	}
	for _, tt := range tests {
		err := tt.e.Validate()
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.e.URL, err, tt.want)
		}
		if err != nil && strings.Contains(err.Error(), "s3cret") {
			t.Errorf("the error contains the path: %v", err)
		}
	}
	twice := Config{Endpoints: []Endpoint{{URL: "https://a.test/", Secret: secret}, {URL: "https://a.test/", Secret: secret}}}
	if err := twice.validate(); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("one URL twice: got %v", err)
	}
}

func TestEventPatterns(t *testing.T) {
	t.Parallel()
	for pattern, want := range map[string]bool{
		"": true, "*": true, "vault.connection.token_refresh.*": true, "vault.connection.token_refresh.failed": true,
		"vault.connection.token_refresh.fail": false, "vault.connection.token_refresh": false, "vault.connection.token_refresh.pending": false, "other.*": false,
	} {
		e := Endpoint{}
		if pattern != "" {
			e.Events = []string{"x", pattern}
		}
		if got := e.wants(record.EventRefreshFailed); got != want {
			t.Errorf("%q: got %t, want %t", pattern, got, want)
		}
	}
}
