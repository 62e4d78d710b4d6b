package broker_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

func TestWrongClientSecretCostsNobodysCredentials(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		const connections = 1000
		good := h.config.Connectors[acme].Client
		setClient := func(client record.Client) {
			h.configureConnector(acme, func(c *record.Connector) { c.Client = client })
		}
		setClient(record.Client{ID: "client", Secret: secret.New("wrong")})
		keys := make([]record.Key, connections)
		for i := range keys {
			keys[i] = h.key
			keys[i].Consumer = fmt.Sprint("customer ", i)
			refresh := fmt.Sprintf("r-%d", i)
			h.provider.Grant(refresh)
			h.mustImportBody(keys[i], fmt.Sprintf(`{"credentials":{"access_token":"a","refresh_token":%q,%s}}`, refresh, issued(2*time.Hour)))
			synctest.Wait()
		}
		const rounds = 12
		refused := func(keys []record.Key) {
			for _, key := range keys {
				if _, err := h.Source(key).Token(t.Context()); err == nil {
					t.Fatal("got a token")
				}
			}
		}
		for range rounds {
			refused(keys[:20])
			time.Sleep(2 * time.Minute)
			refused(keys[20:40])
			time.Sleep(3 * time.Minute)
		}
		refused(keys)
		if got := len(h.provider.Requests()); got < rounds-1 || got > rounds+1 {
			t.Errorf("got %d token requests in an hour, want one every 5 minutes", got)
		}
		if got := h.events.types(); got != "failed" {
			t.Errorf("got events %q, want one failed for the connector", got)
		}
		for _, key := range keys {
			rec := h.record(key)
			if rec.Credentials == nil {
				t.Fatalf("%s has lost its credentials", key.Consumer)
			}
			if rec.IsParked() {
				t.Fatalf("%s is parked", key.Consumer)
			}
			if at := rec.Cycle.CredentialsExpireAt; !at.IsZero() {
				t.Fatalf("%s will lose its credentials at %v", key.Consumer, at)
			}
		}

		synctest.Wait() // a flight in progress would keep its client
		setClient(good)
		for _, key := range keys {
			h.token(key)
		}
	})
}

// A token endpoint that refuses a dead grant has accepted the client. That closes the breaker,
// and the other connections no longer wait.
func TestDeadGrantClosesTheBreaker(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		var mended atomic.Bool // at the provider, unknown to the broker
		h.provider.Respond = func(int, url.Values) (*http.Response, error) {
			if mended.Load() {
				return nil, nil
			}
			return brokertest.Response(401, map[string]any{"error": "invalid_client"}), nil
		}
		first := h.importAs("first", "r1")
		mended.Store(true)
		_, err := h.Source(first).Token(t.Context())
		if failed := wantTokenErrorCode(t, err, record.ClassConfiguration, "connector_paused"); failed.Reason != "invalid_client" {
			t.Errorf("got reason %q, want invalid_client", failed.Reason)
		}
		dead := h.of("dead")
		h.mustImportBody(dead, `{"credentials":{"access_token":"a","refresh_token":"gone",`+issued(2*time.Hour)+`}}`)
		time.Sleep(5*time.Minute + time.Second)
		_, err = h.Source(dead).Token(t.Context())
		wantParked(t, err)
		h.token(first)
	})
}

// Each replica and each new process finds out for itself that the client is wrong.
func TestWrongClientIsAnnouncedOnceAcrossReplicas(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		all, keys, _ := replicasWithAWrongClient(t)
		if got := len(all[0].provider.Requests()); got != len(all) {
			t.Errorf("got %d token requests, want one of each replica", got)
		}
		if got := eventsOf(all); got != "failed" {
			t.Errorf("got events %q, want one failed", got)
		}
		restarted := all[1]
		abandon(t, restarted.Broker)
		restarted.start()
		if _, err := restarted.Source(keys[1]).Token(t.Context()); err == nil {
			t.Error("got a token")
		}
		synctest.Wait()
		if got := eventsOf(all); got != "failed" {
			t.Errorf("got events %q after a restart, want no more", got)
		}
	})
}

func TestWrongClientIsAnnouncedAgainAfterItHasWorked(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		all, keys, wrong := replicasWithAWrongClient(t)
		wrong.Store(false)
		time.Sleep(5*time.Minute + time.Second)
		for i, h := range all {
			h.token(keys[i])
		}
		synctest.Wait()
		wrong.Store(true)
		time.Sleep(2 * time.Hour)
		for i, h := range all {
			if _, err := h.Source(keys[i]).Token(t.Context()); err == nil {
				t.Error("got a token")
			}
		}
		synctest.Wait()
		if got := eventsOf(all); strings.Count(got, "failed") != 2 {
			t.Errorf("got events %q, want failed twice", got)
		}
	})
}

// replicasWithAWrongClient returns replicas, and the key of a connection for each, while the
// provider refuses their client. It does so until the switch is false.
func replicasWithAWrongClient(t *testing.T) (all []*harness, keys []record.Key, wrong *atomic.Bool) {
	t.Helper()
	all, wrong = replicas(t, 3), new(atomic.Bool)
	wrong.Store(true)
	all[0].provider.Respond = func(int, url.Values) (*http.Response, error) {
		if wrong.Load() {
			return brokertest.Response(401, map[string]any{"error": "invalid_client"}), nil
		}
		return nil, nil
	}
	for i, h := range all {
		keys = append(keys, h.importAs(fmt.Sprint("customer ", i), fmt.Sprint("r", i)))
	}
	return all, keys, wrong
}

// Where settings decide the token endpoint, that of one tenant may not know the client: it
// is in another region, or its owner has removed the integration. The others go on.
func TestTokenEndpointOfOneTenantDoesNotStopTheOthers(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		tenants := connector.ID{UnifiedAPI: "crm", ServiceID: "tenants"}
		h.connect(connector.Definition{
			ID: tenants, TokenURL: "https://{tenant}.acme.test/token", Settings: []connector.Setting{{Name: "tenant", Required: true}},
		})
		// The forms do not say to which endpoint they were sent; the refresh token does.
		h.provider.Respond = func(_ int, form url.Values) (*http.Response, error) {
			if strings.HasPrefix(form.Get("refresh_token"), "strange") {
				return brokertest.Response(401, map[string]any{"error": "invalid_client"}), nil
			}
			return nil, nil
		}
		key := func(consumer string) record.Key {
			key := h.at(tenants)
			key.Consumer = consumer
			return key
		}
		connect := func(consumer, tenant, refresh string) {
			t.Helper()
			h.provider.Grant(refresh)
			h.mustImportBody(key(consumer), `{"credentials":{"access_token":"a","refresh_token":"`+refresh+`",`+
				issued(2*time.Hour)+`},"settings":{"tenant":"`+tenant+`"}}`)
			synctest.Wait()
		}
		connect("jane", "elsewhere", "strange-1")
		connect("john", "good", "r1")
		if got := h.token(key("john")); got == "" || got == "a" {
			t.Errorf("got %q, want a new token", got)
		}
		// The connections of one tenant share its breaker.
		before := len(h.provider.Requests())
		connect("joan", "elsewhere", "strange-2")
		if got := len(h.provider.Requests()); got != before {
			t.Errorf("got %d more token requests to an endpoint that does not know the client, want none", got-before)
		}
		// Each tenant's endpoint is reported once.
		connect("jill", "abroad", "strange-3")
		for consumer, want := range map[string]int{"jane": 1, "joan": 0, "jill": 1} {
			if got := h.logLines("level=ERROR", "connection="+key(consumer).String()); len(got) != want {
				t.Errorf("got %d errors that name the connection of %s, want %d; the log:\n%s", len(got), consumer, want, h.log)
			}
		}
	})
}
