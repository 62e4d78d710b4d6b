package caddymodule

import (
	"errors"
	"net/http"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker"
	"github.com/tokenbroker/caddy-token-broker/broker/apideck"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// Headers are looked up by their canonical names only: others would never be found.
func TestHeadersOfCallersHaveCanonicalNames(t *testing.T) {
	names := []string{
		appHeader, consumerHeader, methodHeader, authorizationHeader, timeoutHeader, requestIDHeader, downstreamErrorHeader,
		apideck.UnifiedAPIHeader, apideck.ServiceHeader, apideck.DownstreamURLHeader, broker.ErrorHeader, broker.ImportHeader,
	}
	for _, name := range append(names, callersOwn...) {
		if canonical := http.CanonicalHeaderKey(name); canonical != name {
			t.Errorf("%s is written %s", name, canonical)
		}
	}
}

func TestOnlyValue(t *testing.T) {
	for _, tt := range []struct {
		values []string
		want   string
		fails  bool
	}{
		{nil, "", false},
		{[]string{}, "", false},
		{[]string{"a"}, "a", false},
		{[]string{"a", "b"}, "", true},
		{[]string{"a", "a"}, "", true},
		{[]string{"", ""}, "", true},
	} {
		got, err := onlyValue(http.Header{appHeader: tt.values}, appHeader)
		if _, bad := errors.AsType[*record.InputError](err); got != tt.want || bad != tt.fails {
			t.Errorf("%q: got %q, %v", tt.values, got, err)
		}
	}
}
