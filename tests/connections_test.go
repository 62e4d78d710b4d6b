package tests

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/tests/oauthserver"
)

// api sends a request to the connections API for a consumer.
func (p *process) api(t testing.TB, method, path, consumer, body string) answer {
	t.Helper()
	return send(t, method, p.apiURL("/vault/"+path), p.deployment.apiHeader(consumer), body)
}

// list lists the consumer's connections and returns their ids and states.
func (p *process) list(t testing.TB, query, consumer string) []string {
	t.Helper()
	got := p.api(t, http.MethodGet, "connections"+query, consumer, "")
	if got.status != http.StatusOK {
		t.Fatalf("a list = %v, want 200", got)
	}
	var body struct{ Data []connection }
	got.decode(t, &body)
	list := []string{}
	for _, c := range body.Data {
		list = append(list, c.ID+" "+c.State)
	}
	return list
}

// validate validates a connection and returns its state.
func (p *process) validate(t testing.TB, connector, consumer string) string {
	t.Helper()
	got := p.api(t, http.MethodPost, "connections/"+connector+"/validate", consumer, "{}")
	if got.status != http.StatusOK {
		t.Fatalf("validate = %v, want 200", got)
	}
	var body struct{ Data map[string]any }
	got.decode(t, &body)
	state, _ := body.Data["state"].(string)
	if want := map[string]any{"id": strings.ReplaceAll(connector, "/", "+"), "state": state}; !reflect.DeepEqual(body.Data, want) {
		t.Errorf("validate returns %v, want %v", body.Data, want)
	}
	return state
}

// awaitList waits until the list is as wanted.
func (p *process) awaitList(t testing.TB, query, consumer string, want ...string) {
	t.Helper()
	eventually(t, "the list", func() error {
		if got := p.list(t, query, consumer); !slices.Equal(got, want) {
			return fmt.Errorf("it is %v, want %v", got, want)
		}
		return nil
	})
}

func TestConnectionsAreListedUpdatedAndDeleted(t *testing.T) {
	inEveryStore(t, func(t *testing.T, d *deployment) {
		p := d.start(t)
		wantList := func(query string, want ...string) {
			t.Helper()
			if got := p.list(t, query, consumer); !slices.Equal(got, want) {
				t.Errorf("the list %s is %v, want %v", query, got, want)
			}
		}
		wantList("?configured=true")
		wantList("", "accounting+quickbooks available", "crm+acme available", "crm+keyed available", "crm+machine available")

		p.importTokens(t, acme, consumer, d.provider.Login(t, consumer, 0))
		p.importBody(t, keyed, consumer, `{"settings": {"api_key": "the-key"}}`).connection(t)
		wantList("?configured=true", "crm+acme callable", "crm+keyed callable")
		wantList("?api=crm&configured=false", "crm+machine available")
		if got := p.list(t, "?configured=true", "another"); len(got) != 0 {
			t.Errorf("another consumer has the connections %v, want none", got)
		}

		conn := p.api(t, http.MethodPatch, "connections/"+keyed, consumer, `{"settings": {"api_key": "********", "team": "a"}, "metadata": {"plan": "gold"}}`).connection(t)
		if conn.Settings["api_key"] != "********" || conn.Settings["team"] != "a" || conn.Metadata["plan"] != "gold" {
			t.Errorf("the updated connection is %+v, want the key masked, and team and plan as sent", conn)
		}
		wantKey := func(want string) {
			t.Helper()
			if got := p.call(t, "/keyed/open/things", consumer); got.status != http.StatusOK {
				t.Fatalf("a call = %v, want 200", got)
			}
			if call, _ := d.provider.LastCall("/open/things"); call.Header.Get("X-Api-Key") != want {
				t.Errorf("downstream got the API key %q, want %q", call.Header.Get("X-Api-Key"), want)
			}
		}
		wantKey("the-key")
		p.api(t, http.MethodPatch, "connections/"+keyed, consumer, `{"settings": {"api_key": "another-key"}}`).connection(t)
		wantKey("another-key")

		if got := p.api(t, http.MethodDelete, "connections/"+keyed, consumer, ""); got.status != http.StatusNoContent || len(got.body) != 0 {
			t.Errorf("a deletion = %v, want 204 without a body", got)
		}
		p.call(t, "/keyed/open/things", consumer).wantError(t, http.StatusNotFound, "ConnectionNotFoundError")
		p.api(t, http.MethodDelete, "connections/"+keyed, consumer, "").wantError(t, http.StatusNotFound, "ConnectionNotFoundError")
		wantList("?configured=true", "crm+acme callable")
		if got := p.generationOf(t, "/acme/contacts", consumer); got != 0 {
			t.Errorf("the other connection has token %d, want that of the login", got)
		}
	})
}

func TestDisabledConnectionIsNotCalled(t *testing.T) {
	inEveryStore(t, func(t *testing.T, d *deployment) {
		p := d.start(t)
		p.importTokens(t, acme, consumer, d.provider.Login(t, consumer, 0))
		p.generationOf(t, "/acme/contacts", consumer)
		p.api(t, http.MethodPatch, "connections/"+acme, consumer, `{"enabled": false}`).connection(t)
		p.call(t, "/acme/contacts", consumer).wantError(t, http.StatusForbidden, "ConnectorDisabledError")
		p.api(t, http.MethodPost, "connections/"+acme+"/validate", consumer, "").wantError(t, http.StatusForbidden, "ConnectorDisabledError")
		p.api(t, http.MethodPatch, "connections/"+acme, consumer, `{"enabled": true}`).connection(t)
		if got := p.generationOf(t, "/acme/contacts", consumer); got != 0 {
			t.Errorf("downstream saw token %d, want that of the login", got)
		}
	})
}

func TestValidateForcesOneRefresh(t *testing.T) {
	inEveryStore(t, func(t *testing.T, d *deployment) {
		p := d.start(t)
		p.importTokens(t, acme, consumer, d.provider.Login(t, consumer, 0))
		for range 3 {
			if got := p.validate(t, acme, consumer); got != "callable" {
				t.Errorf("the state is %s, want callable", got)
			}
		}
		if got := p.generationOf(t, "/acme/contacts", consumer); got != 1 {
			t.Errorf("downstream saw token %d, want 1", got)
		}
		d.wantUnbroken(t, p, consumer, 1)

		dead := d.provider.Login(t, "dead", 2*oauthserver.DefaultLifetime)
		d.provider.Revoke(t, "dead")
		p.importTokens(t, acme, "dead", dead)
		d.webhooks.await(t, failedEvent)
		for range 3 {
			if got := p.validate(t, acme, "dead"); got != "invalid" {
				t.Errorf("the state is %s, want invalid", got)
			}
		}
		if got := d.provider.TokenRequests("dead"); len(got) != 1 {
			t.Errorf("the dead refresh token was sent %d times, want once in 30 s", len(got))
		}
		p.importBody(t, keyed, consumer, `{"settings": {"api_key": "the-key"}}`).connection(t)
		if got := p.validate(t, keyed, consumer); got != "callable" {
			t.Errorf("the state is %s, want callable", got)
		}
		p.api(t, http.MethodPost, "connections/"+keyed+"/validate", "another", "").wantError(t, http.StatusNotFound, "ConnectionNotFoundError")
	})
}

func TestTokenOfClientCredentialsIsFetched(t *testing.T) {
	inEveryStore(t, func(t *testing.T, d *deployment) {
		p := d.start(t)
		p.importBody(t, machine, consumer, `{"credentials": {"access_token": "old"}}`).connection(t)
		got := p.api(t, http.MethodPost, "connections/"+machine+"/token", consumer, "")
		if conn := got.connection(t); conn.State != "callable" || strings.Contains(got.String(), "access_token") {
			t.Errorf("the response is %v, want a callable connection without its token", got)
		}
		if got := p.call(t, "/machine/things", consumer); got.status != http.StatusOK {
			t.Errorf("a call = %v, want 200", got)
		}
		p.importTokens(t, acme, consumer, d.provider.Login(t, consumer, 0))
		p.api(t, http.MethodPost, "connections/"+acme+"/token", consumer, "").
			wantError(t, http.StatusUnprocessableEntity, "InvalidStateError", "authorization_code")
	})
}

func TestDeletingAConsumerDeletesItsConnections(t *testing.T) {
	inEveryStore(t, func(t *testing.T, d *deployment) {
		const leaving = "a/b ../ü?#%2f"
		p := d.start(t)
		p.importTokens(t, acme, leaving, d.provider.Login(t, leaving, 0))
		p.importBody(t, keyed, leaving, `{"settings": {"api_key": "the-key"}}`).connection(t)
		p.importBody(t, keyed, consumer, `{"settings": {"api_key": "the-key"}}`).connection(t)

		header := d.apiHeader("")
		header.Del("X-Apideck-Consumer-Id")
		path := p.apiURL("/vault/consumers/" + url.PathEscape(leaving))
		for range 2 { // a client that did not get the response asks again
			got := send(t, http.MethodDelete, path, header, "")
			var body struct {
				Data map[string]any `json:"data"`
			}
			got.decode(t, &body)
			if want := map[string]any{"consumer_id": leaving}; got.status != http.StatusOK || !reflect.DeepEqual(body.Data, want) {
				t.Errorf("the response is %v, want 200 with %v", got, want)
			}
		}
		if got := p.list(t, "?configured=true", leaving); len(got) != 0 {
			t.Errorf("the deleted consumer still has %v", got)
		}
		if got := p.list(t, "?configured=true", consumer); !slices.Equal(got, []string{"crm+keyed callable"}) {
			t.Errorf("another consumer has %v, want crm+keyed", got)
		}
		send(t, http.MethodDelete, p.apiURL("/vault/consumers/unknown"), header, "").wantError(t, http.StatusNotFound, "EntityNotFoundError")
	})
}

// A second application sees nothing of the first one's connections.
func TestApplicationsAreIsolated(t *testing.T) {
	inEveryStore(t, func(t *testing.T, d *deployment) {
		d.broker = "app other {\n api_key " + d.secretFile(t, "other-key", "another-api-key") + "\n}"
		p := d.start(t)
		p.importTokens(t, acme, consumer, d.provider.Login(t, consumer, 0))
		header := d.apiHeader(consumer)
		header.Set("Authorization", "Bearer another-api-key")
		// With its own id the connection is not found; with the other's id the key is wrong.
		for _, request := range []struct{ method, path, body string }{
			{http.MethodGet, "connections/" + acme, ""},
			{http.MethodPatch, "connections/" + acme, `{"enabled": false}`},
			{http.MethodDelete, "connections/" + acme, ""},
			{http.MethodPost, "connections/" + acme + "/validate", ""},
		} {
			header.Set("X-Apideck-App-Id", "other")
			of := send(t, request.method, p.apiURL("/vault/"+request.path), header, request.body)
			of.wantError(t, http.StatusNotFound, "ConnectionNotFoundError")
			header.Set("X-Apideck-Consumer-Id", "unknown")
			if none := send(t, request.method, p.apiURL("/vault/"+request.path), header, request.body); string(none.body) != string(of.body) {
				t.Errorf("%s %s: the responses %s and %s differ", request.method, request.path, of.body, none.body)
			}
			header.Set("X-Apideck-Consumer-Id", consumer)
			header.Set("X-Apideck-App-Id", application)
			send(t, request.method, p.apiURL("/vault/"+request.path), header, request.body).wantError(t, http.StatusUnauthorized, "UnauthorizedError")
		}
		header.Set("X-Apideck-App-Id", "other")
		send(t, http.MethodDelete, p.apiURL("/vault/consumers/"+consumer), header, "").wantError(t, http.StatusNotFound, "EntityNotFoundError")
		if got := p.generationOf(t, "/acme/contacts", consumer); got != 0 {
			t.Errorf("downstream saw token %d, want that of the login", got)
		}
	})
}

// Deleting a connection also revokes its grant at the provider.
func TestDeletionRevokesTheGrant(t *testing.T) {
	inEveryStore(t, func(t *testing.T, d *deployment) {
		p := d.start(t)
		p.importTokens(t, acme, consumer, d.provider.Login(t, consumer, 2*oauthserver.DefaultLifetime))
		p.generationOf(t, "/acme/contacts", consumer)
		p.importTokens(t, acme, "another", d.provider.Login(t, "another", 0))
		if got := p.api(t, http.MethodDelete, "connections/"+acme, consumer, ""); got.status != http.StatusNoContent {
			t.Fatalf("a deletion = %v, want 204", got)
		}
		eventually(t, "the revocation", func() error {
			want := []oauthserver.Generation{{Customer: consumer, Number: 1}}
			if got := d.provider.Revoked(); !slices.Equal(got, want) {
				return fmt.Errorf("revoked so far: %v, want %v", got, want)
			}
			return nil
		})
		eventually(t, "the revocation in the log", func() error {
			if !strings.Contains(p.log.String(), "was revoked at the provider") {
				return errors.New("it is not in the log")
			}
			return nil
		})
		if got := p.generationOf(t, "/acme/contacts", "another"); got != 0 {
			t.Errorf("downstream saw token %d of another customer, want that of the login", got)
		}
	})
}

// The response to a refresh in progress does not bring a deleted connection back.
func TestConnectionIsDeletedDuringItsRefresh(t *testing.T) {
	inEveryStore(t, func(t *testing.T, d *deployment) {
		p := d.start(t)
		gate := d.provider.HoldToken(t)
		p.importTokens(t, acme, consumer, d.provider.Login(t, consumer, 2*oauthserver.DefaultLifetime))
		gate.Await(t)
		if got := p.api(t, http.MethodDelete, "connections/"+acme, consumer, ""); got.status != http.StatusNoContent {
			t.Errorf("a deletion = %v, want 204", got)
		}
		if got := d.provider.TokenRequests(consumer); len(got) != 1 || !got[0].Answered.IsZero() {
			t.Errorf("after the deletion the token requests are %+v, want one in progress: the deletion must not wait for it", got)
		}
		gate.Open()
		d.awaitRefreshes(t, consumer, 1)
		p.stop(t) // waits for revocations in progress
		for _, token := range []int{0, 1} {
			if want := (oauthserver.Generation{Customer: consumer, Number: token}); !slices.Contains(d.provider.Revoked(), want) {
				t.Errorf("the revoked tokens are %v, want %v among them", d.provider.Revoked(), want)
			}
		}
		p = d.start(t)
		p.get(t, acme, consumer).wantError(t, http.StatusNotFound, "ConnectionNotFoundError")
		p.awaitList(t, "?configured=true", consumer)
	})
}

func TestBadRequestsToTheConnectionsAPI(t *testing.T) {
	const syntax, headers, state = "RequestValidationError", "RequestHeadersValidationError", "InvalidStateError"
	tests := []struct {
		name, method, path, body string
		header                   http.Header
		status                   int
		typeName, message        string
	}{
		{"list without a consumer", "GET", "connections", "", http.Header{"X-Apideck-Consumer-Id": nil}, 400, headers, "x-apideck-consumer-id"},
		{"list with a wrong key", "GET", "connections", "", http.Header{"Authorization": {"Bearer wrong"}}, 401, "UnauthorizedError", "Unauthorized"},
		{"list with a bad boolean", "GET", "connections?configured=1", "", nil, 400, syntax, "configured"},
		{"update of a missing connection", "PATCH", "connections/crm/acme", "{}", nil, 404, "ConnectionNotFoundError", "crm/acme"},
		{"update of an unknown connector", "PATCH", "connections/crm/unknown", "{}", nil, 404, "ConnectorNotFoundError", "crm/unknown"},
		{"update without a body", "PATCH", "connections/crm/keyed", "", nil, 400, syntax, "empty"},
		{"update with a wrong type", "PATCH", "connections/crm/keyed", `{"enabled": 1}`, nil, 400, syntax, "enabled"},
		{"update of an unknown member", "PATCH", "connections/crm/keyed", `{"enable": true}`, nil, 400, syntax, "enable"},
		{"update of a member that is not stored", "PATCH", "connections/crm/keyed", `{"consent_state": "denied"}`, nil, 422, state, "consent_state"},
		{"validate with a body", "POST", "connections/crm/keyed/validate", `{"settings": {}}`, nil, 400, syntax, "settings"},
		{"token of an API key", "POST", "connections/crm/keyed/token", "", nil, 422, state, "apiKey"},
		{"method", "PUT", "connections/crm/keyed", "{}", nil, 405, "MethodNotAllowedError", "method"},
		{"path", "GET", "connections/crm/keyed/", "", nil, 404, "EntityNotFoundError", "nothing"},
		{"dots", "GET", "connections/crm/%2e%2e", "", nil, 404, "ConnectorNotFoundError", "crm/.."},
		{"consumer's name", "DELETE", "consumers/" + strings.Repeat("x", 256), "", nil, 400, syntax, "consumer_id"},
	}
	inEveryStore(t, func(t *testing.T, d *deployment) {
		p := d.start(t)
		p.importBody(t, keyed, consumer, `{"settings": {"api_key": "the-key"}}`).connection(t)
		before := p.get(t, keyed, consumer)
		for _, test := range tests {
			t.Run(test.name, func(t *testing.T) {
				header := d.apiHeader(consumer)
				maps.Copy(header, test.header)
				send(t, test.method, p.apiURL("/vault/"+test.path), header, test.body).wantError(t, test.status, test.typeName, test.message)
			})
		}
		if after := p.get(t, keyed, consumer); string(after.body) != string(before.body) {
			t.Errorf("the connection was %s and is now %s", before.body, after.body)
		}
	})
}
