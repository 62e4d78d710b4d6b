package apideck

import (
	"errors"
	"net/http"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// Headers are looked up by canonical name; any other spelling would never be found.
func TestHeadersOfCallersHaveCanonicalNames(t *testing.T) {
	names := []string{
		AppHeader, ConsumerHeader, MethodHeader, AuthorizationHeader, TimeoutHeader, RequestIDHeader, DownstreamErrorHeader,
		UnifiedAPIHeader, ServiceHeader, DownstreamURLHeader, broker.ErrorHeader, broker.ImportHeader,
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
		got, err := OnlyValue(http.Header{AppHeader: tt.values}, AppHeader)
		if _, bad := errors.AsType[*record.InputError](err); got != tt.want || bad != tt.fails {
			t.Errorf("%q: got %q, %v", tt.values, got, err)
		}
	}
}
