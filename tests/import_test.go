package tests

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/tests/oauthserver"
)

// The example in the Apideck API's guide to importing connections, with tokens of this test.
// The lifetime is in seconds, so the token has expired.
const exampleImport = `{
	"consumer_id": %q,
	"credentials": {
		"access_token": %q,
		"refresh_token": %q,
		"issued_at": "2022-01-01T12:00:00.000Z",
		"expires_in": 3600000
	},
	"settings": {"realm_id": "4620816365"},
	"metadata": {
		"account": {"name": "My Company", "id": "c01458a5-7276-41ce-bc19-639906b0450a"},
		"plan": "enterprise"
	}
}`

func TestImportedConnectionIsRefreshedAndCalledThroughTheSidecar(t *testing.T) {
	inEveryStore(t, func(t *testing.T, d *deployment) {
		p := d.start(t)
		login := d.provider.Login(t, consumer, 2*oauthserver.DefaultLifetime)
		got := p.importBody(t, quickbooks, consumer, fmt.Sprintf(exampleImport, consumer, login.AccessToken, login.RefreshToken))

		if outcome := got.header.Get("X-Token-Broker-Import"); outcome != "stored" {
			t.Errorf("X-Token-Broker-Import is %q, want stored", outcome)
		}
		conn := got.connection(t)
		if conn.State != "callable" || conn.AuthType != "oauth2" || conn.ServiceID != "quickbooks" || conn.UnifiedAPI != "accounting" {
			t.Errorf("the connection is %+v, want accounting/quickbooks, callable", conn)
		}
		wantMetadata := map[string]any{
			"account": map[string]any{"name": "My Company", "id": "c01458a5-7276-41ce-bc19-639906b0450a"}, "plan": "enterprise",
		}
		if !reflect.DeepEqual(conn.Metadata, wantMetadata) || conn.Settings["realm_id"] != "4620816365" {
			t.Errorf("settings are %v, metadata %v; want those of the import", conn.Settings, conn.Metadata)
		}
		d.awaitRefreshes(t, consumer, 1) // before the first call

		header := http.Header{
			"X-Apideck-Consumer-Id": {consumer}, "X-Apideck-App-Id": {"another"}, "X-Apideck-Anything": {"x"},
			"Authorization": {"Bearer the-caller's"}, "Cookie": {"session=the-caller's"},
			"Baggage": {"user=the-caller"}, "X-Custom": {"stays"},
			"Traceparent": {"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
		}
		path := "/v3/company/4620816365/companyinfo/1"
		answered := send(t, http.MethodGet, p.sidecarURL("/quickbooks"+path+"?minorversion=70"), header, "")
		if answered.status != http.StatusOK {
			t.Fatalf("a call through the sidecar = %v, want 200", answered)
		}
		call, _ := d.provider.LastCall(path)
		wantDownstream(t, d, call)
		if call.Token.Number != 1 || call.Query != "minorversion=70" {
			t.Errorf("downstream got token %d and the query %q, want 1 and minorversion=70", call.Token.Number, call.Query)
		}
		if d.provider.Reuses() != 0 || d.provider.Redeemed(consumer, 0) != 1 {
			t.Errorf("the refresh token was sent %d times, want once", d.provider.Redeemed(consumer, 0))
		}
	})
}

// wantDownstream checks which of the caller's headers reached downstream.
func wantDownstream(t *testing.T, d *deployment, call oauthserver.Call) {
	t.Helper()
	for name, values := range call.Header {
		if strings.HasPrefix(strings.ToLower(name), "x-apideck-") || slices.Contains([]string{"Cookie", "Baggage"}, name) {
			t.Errorf("downstream got the caller's %s: %q", name, values)
		}
		for _, value := range values {
			if strings.Contains(value, "the-caller") {
				t.Errorf("downstream got the caller's %s: %q", name, value)
			}
		}
	}
	if want := strings.TrimPrefix(d.provider.APIURL, "http://"); call.Host != want {
		t.Errorf("downstream got the Host %s, want its own, %s", call.Host, want)
	}
	if got := call.Header.Get("Traceparent"); !strings.HasPrefix(got, "00-0af7651916cd43dd8448eb211c80319c-") {
		t.Errorf("downstream got the traceparent %q, want one of the caller's trace", got)
	}
	if call.Header.Get("X-Custom") != "stays" {
		t.Error("downstream did not get X-Custom")
	}
}

// awaitRefreshes waits until count token requests of a customer were answered.
func (d *deployment) awaitRefreshes(t testing.TB, customer string, count int) {
	t.Helper()
	eventually(t, "refreshes", func() error {
		requests := d.provider.TokenRequests(customer)
		if len(requests) < count || !requests[count-1].Delivered {
			return fmt.Errorf("token requests so far: %+v", requests)
		}
		return nil
	})
}

func TestImportsMergeSettingsAndMetadata(t *testing.T) {
	inEveryStore(t, func(t *testing.T, d *deployment) {
		p := d.start(t)
		login := d.provider.Login(t, consumer, 0)
		p.importBody(t, acme, consumer, tokensBody(t, login, map[string]any{"secret_note": "a secret", "region": "eu", "tier": "a"})).connection(t)
		got := p.importBody(t, acme, consumer, `{"settings": {"tier": null, "region": "us"}, "metadata": {"a": {"b": 12345678901234567890}}}`)
		if outcome := got.header.Get("X-Token-Broker-Import"); outcome != "kept" {
			t.Errorf("X-Token-Broker-Import is %q, want kept: the import has no credentials", outcome)
		}
		conn := p.get(t, acme, consumer).connection(t)
		if want := map[string]any{"secret_note": "********", "region": "us"}; !reflect.DeepEqual(conn.Settings, want) {
			t.Errorf("settings are %v, want %v", conn.Settings, want)
		}
		if body := string(p.get(t, acme, consumer).body); !strings.Contains(body, "12345678901234567890") {
			t.Errorf("a large number was changed: %s", body)
		}
		if got := p.generationOf(t, "/acme/contacts", consumer); got != 0 {
			t.Errorf("downstream saw token %d, want that of the login", got)
		}
	})
}

func TestOtherKindsOfCredentialsAreInjected(t *testing.T) {
	inEveryStore(t, func(t *testing.T, d *deployment) {
		p := d.start(t)
		p.importBody(t, keyed, consumer, `{"settings": {"api_key": "the-key"}}`).connection(t)
		if got := p.call(t, "/keyed/open/things", consumer); got.status != http.StatusOK {
			t.Fatalf("a call with an API key = %v, want 200", got)
		}
		if call, _ := d.provider.LastCall("/open/things"); call.Header.Get("X-Api-Key") != "the-key" {
			t.Errorf("downstream got the API key %q, want the-key", call.Header.Get("X-Api-Key"))
		}

		p.importBody(t, machine, consumer,
			`{"credentials": {"access_token": "old", "issued_at": "2022-01-01T12:00:00Z", "expires_in": 3600}}`).connection(t)
		if got := p.call(t, "/machine/things", consumer); got.status != http.StatusOK {
			t.Errorf("a call with client credentials = %v, want 200", got)
		}
	})
}

func TestSidecarWithoutAppAuthenticatesItsCallers(t *testing.T) {
	inEveryStore(t, func(t *testing.T, d *deployment) {
		p := d.start(t)
		p.importTokens(t, acme, consumer, d.provider.Login(t, consumer, 0))
		url := p.sidecarURL("/authenticated/contacts")
		header := d.apiHeader(consumer)
		if got := send(t, http.MethodGet, url, header, ""); got.status != http.StatusOK {
			t.Errorf("with the API key = %v, want 200", got)
		}
		header.Set("Authorization", "Bearer wrong")
		send(t, http.MethodGet, url, header, "").wantError(t, http.StatusUnauthorized, "UnauthorizedError")
		send(t, http.MethodGet, url, http.Header{}, "").wantError(t, http.StatusUnauthorized, "UnauthorizedError")
		p.call(t, "/acme/contacts", "a stranger").wantError(t, http.StatusNotFound, "ConnectionNotFoundError")
	})
}

// A bad import is refused with a message that says why, and nothing is stored.
func TestBadImportsAreRefused(t *testing.T) {
	valid := `{"credentials": {"access_token": "at", "refresh_token": "rt"}}`
	with := func(credentials string) string {
		return `{"credentials": {"access_token": "at", "refresh_token": "rt", ` + credentials + `}}`
	}
	const (
		syntax, headers, state = "RequestValidationError", "RequestHeadersValidationError", "InvalidStateError"
	)
	tests := []struct {
		name      string
		connector string      // default: acme
		header    http.Header // replaces valid headers; nil: removes one
		body      string
		status    int
		typeName  string
		message   string
	}{
		{"no authorization", "", http.Header{"Authorization": nil}, valid, 401, "UnauthorizedError", "Unauthorized"},
		{"another scheme", "", http.Header{"Authorization": {"Basic eA=="}}, valid, 401, "UnauthorizedError", "Unauthorized"},
		{"wrong key", "", http.Header{"Authorization": {"Bearer wrong"}}, valid, 401, "UnauthorizedError", "Unauthorized"},
		{"unknown application", "", http.Header{"X-Apideck-App-Id": {"another"}}, valid, 401, "UnauthorizedError", "Unauthorized"},
		{"no application", "", http.Header{"X-Apideck-App-Id": nil}, valid, 400, headers, "x-apideck-app-id"},
		{"no consumer", "", http.Header{"X-Apideck-Consumer-Id": nil}, valid, 400, headers, "x-apideck-consumer-id"},
		{"two consumers", "", http.Header{"X-Apideck-Consumer-Id": {"a", "b"}}, valid, 400, headers, "x-apideck-consumer-id"},
		{"long consumer", "", http.Header{"X-Apideck-Consumer-Id": {strings.Repeat("x", 256)}}, valid, 400, headers, "x-apideck-consumer-id"},
		{"unknown connector", "crm/unknown", nil, valid, 404, "ConnectorNotFoundError", "crm/unknown"},
		{"catalogued, but without a block", "crm/hubspot", nil, valid, 404, "ConnectorNotFoundError", "crm/hubspot"},
		{"unknown unified API", "nothing/acme", nil, valid, 404, "ConnectorNotFoundError", "nothing/acme"},

		{"empty body", "", nil, "", 400, syntax, "body"},
		{"no JSON", "", nil, "access_token=at", 400, syntax, "JSON"},
		{"cut off", "", nil, `{"credentials": {`, 400, syntax, "JSON"},
		{"an array", "", nil, `[]`, 400, syntax, "object"},
		{"two documents", "", nil, valid + valid, 400, syntax, "after the JSON object"},
		{"unknown member", "", nil, `{"credential": {}}`, 400, syntax, "credential"},
		{"unknown credential", "", nil, with(`"expires": 1`), 400, syntax, "credentials.expires"},
		{"repeated member", "", nil, `{"settings": {}, "settings": {}}`, 400, syntax, "settings"},
		{"token of another type", "", nil, `{"credentials": {"access_token": 1}}`, 400, syntax, "credentials.access_token"},
		{"time of another type", "", nil, with(`"issued_at": 1640995200`), 400, syntax, "credentials.issued_at"},
		{"no time", "", nil, with(`"issued_at": "yesterday"`), 400, syntax, "credentials.issued_at"},
		{"seconds of another type", "", nil, with(`"expires_in": "3600"`), 400, syntax, "credentials.expires_in"},
		{"fraction of a second", "", nil, with(`"expires_in": 1.5`), 400, syntax, "credentials.expires_in"},
		{"settings of another type", "", nil, `{"settings": []}`, 400, syntax, "settings"},
		{"metadata of another type", "", nil, `{"metadata": "x"}`, 400, syntax, "metadata"},
		{"consumer of another type", "", nil, `{"consumer_id": 1}`, 400, syntax, "consumer_id"},

		{"negative lifetime", "", nil, with(`"expires_in": -1`), 422, state, "credentials.expires_in"},
		{"another consumer", "", nil, `{"consumer_id": "another", "credentials": {"access_token": "at", "refresh_token": "rt"}}`, 422, state, "consumer_id"},
		{"line break in a token", "", nil, `{"credentials": {"access_token": "a\nb", "refresh_token": "rt"}}`, 422, state, "credentials.access_token"},
		{"no tokens", "", nil, `{}`, 422, state, "credentials.access_token"},
		{"the word null", "", nil, `{"credentials": {"access_token": "at", "refresh_token": "null"}}`, 422, state, "credentials.refresh_token"},
		{"no refresh token", "", nil, `{"credentials": {"access_token": "at"}}`, 422, state, "credentials.refresh_token"},
		{"no API key", keyed, nil, `{"settings": {}}`, 422, state, "settings.api_key"},
		{"tokens for an API key", keyed, nil, valid, 422, state, "credentials"},
		{"too large", "", nil, `{"metadata": {"x": "` + strings.Repeat("x", 1<<20) + `"}}`, 413, "RequestEntityTooLargeError", "too large"},
	}
	inEveryStore(t, func(t *testing.T, d *deployment) {
		p := d.start(t)
		for _, test := range tests {
			connector := test.connector
			if connector == "" {
				connector = acme
			}
			t.Run(test.name, func(t *testing.T) {
				header := d.apiHeader(consumer)
				maps.Copy(header, test.header)
				send(t, http.MethodPost, p.apiURL("/vault/connections/"+connector+"/import"), header, test.body).
					wantError(t, test.status, test.typeName, test.message)
			})
		}
		for _, connector := range []string{acme, keyed} {
			p.get(t, connector, consumer).wantError(t, http.StatusNotFound, "ConnectionNotFoundError", connector)
		}
	})
}

// The response to an import contains no secret.
func TestImportDoesNotAnswerWithCredentials(t *testing.T) {
	inEveryStore(t, func(t *testing.T, d *deployment) {
		p := d.start(t)
		login := d.provider.Login(t, consumer, 0)
		got := p.importBody(t, acme, consumer, tokensBody(t, login, map[string]any{"secret_note": "a secret"}))
		for _, secret := range []string{login.AccessToken, login.RefreshToken, "a secret"} {
			if strings.Contains(got.String(), secret) {
				t.Errorf("the response contains %q", secret)
			}
		}
		var body struct {
			StatusCode int             `json:"status_code"`
			Status     string          `json:"status"`
			Data       json.RawMessage `json:"data"`
		}
		got.decode(t, &body)
		if body.StatusCode != http.StatusOK || body.Status != "OK" || len(body.Data) == 0 {
			t.Errorf("the response is %v, want status_code 200, status OK and data", got)
		}
		if got.header.Get("Cache-Control") != "no-store" {
			t.Errorf("Cache-Control is %q, want no-store", got.header.Get("Cache-Control"))
		}
	})
}

// A token that is far from its expiry is used without a refresh.
func TestValidTokenIsUsedWithoutARefresh(t *testing.T) {
	inEveryStore(t, func(t *testing.T, d *deployment) {
		p := d.start(t)
		p.importTokens(t, acme, consumer, d.provider.Login(t, consumer, time.Minute))
		if got := p.generationOf(t, "/acme/contacts", consumer); got != 0 {
			t.Errorf("downstream saw token %d, want that of the login", got)
		}
		p.stop(t) // would finish a refresh in progress
		if got := d.provider.TokenRequests(consumer); len(got) != 0 {
			t.Errorf("token requests: %+v, want none", got)
		}
	})
}
