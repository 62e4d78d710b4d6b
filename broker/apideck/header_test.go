package apideck

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// Headers are looked up by canonical name; any other spelling would never be found.
func TestHeadersOfCallersHaveCanonicalNames(t *testing.T) {
	names := []string{
		AppHeader, ConsumerHeader, MethodHeader, AuthorizationHeader, TimeoutHeader, RequestIDHeader, DownstreamErrorHeader,
		UnifiedAPIHeader, ServiceHeader, DownstreamURLHeader, broker.ErrorHeader, broker.ImportHeader, broker.WarningHeader,
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

func TestRequiredValueIsNotEmpty(t *testing.T) {
	for _, values := range [][]string{nil, {""}} {
		_, err := RequiredValue(http.Header{ConsumerHeader: values}, ConsumerHeader)
		wantInputError(t, err, record.InputHeaderMissing, "x-apideck-consumer-id")
	}
	_, err := RequiredValue(http.Header{ConsumerHeader: {"a", "b"}}, ConsumerHeader)
	wantInputError(t, err, record.InputHeader, "x-apideck-consumer-id")
	if got, err := RequiredValue(http.Header{ConsumerHeader: {"jane"}}, ConsumerHeader); got != "jane" || err != nil {
		t.Errorf("got %q, %v, want jane", got, err)
	}
}

func TestHeadersForTheBrokerStayThere(t *testing.T) {
	own := []string{"x-apideck-anything", "X-APIDECK-APP-ID", "x-forwarded-for", "proxy-authorization", "x-token-broker-error"}
	for _, pattern := range CallersOwn() {
		own = append(own, strings.Replace(pattern, "*", "Any", 1))
	}
	for _, name := range own {
		if !IsCallersOwn(name) {
			t.Errorf("%s goes to downstream", name)
		}
	}
	for _, name := range []string{"", "X", "Accept", "Content-Type", "X-Custom", "Proxy", "Prefer", "Authorization-Info", "X-Forward"} {
		if IsCallersOwn(name) {
			t.Errorf("%s does not go to downstream", name)
		}
	}
}

// TestErrorsNameHeadersAsTheyAre: package record knows no HTTP, and spells the headers that
// its errors name itself.
func TestErrorsNameHeadersAsTheyAre(t *testing.T) {
	t.Parallel()
	for field, header := range map[string]string{
		record.ApplicationField: AppHeader, record.ConsumerField: ConsumerHeader, record.UnifiedAPIField: UnifiedAPIHeader,
		record.ServiceField: ServiceHeader, record.DownstreamURLField: DownstreamURLHeader,
	} {
		if http.CanonicalHeaderKey(field) != header {
			t.Errorf("errors say %s for the header %s", field, header)
		}
	}
}
