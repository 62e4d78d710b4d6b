package broker_test

import (
	"context"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker"
	"github.com/tokenbroker/caddy-token-broker/broker/apideck"
	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// Connectors of the tests, all at the provider of the harness.
var (
	acme  = connector.ID{UnifiedAPI: "crm", ServiceID: "acme"}     // OAuth, refresh tokens rotate
	long  = connector.ID{UnifiedAPI: "crm", ServiceID: "long"}     // OAuth, refresh token optional
	keyed = connector.ID{UnifiedAPI: "crm", ServiceID: "keyed"}    // API key
	cc    = connector.ID{UnifiedAPI: "crm", ServiceID: "machines"} // OAuth, client_credentials
	owner = connector.ID{UnifiedAPI: "crm", ServiceID: "owner"}    // OAuth, password; see connectOwner
)

// A harness is a broker with what it works with: a provider, a store, a journal.
type harness struct {
	*broker.Broker
	t        *testing.T
	store    *brokertest.MemStore
	provider *brokertest.Provider
	journal  *brokertest.MemJournal
	events   *eventLog
	log      *brokertest.Log
	config   *record.Config
	key      record.Key // of a connection to acme
}

// newHarness returns a harness; call it in a synctest bubble if time is to be virtual.
func newHarness(t *testing.T) *harness {
	t.Helper()
	return newHarnessOn(t, &brokertest.MemStore{}, brokertest.NewProvider())
}

// replicas returns harnesses whose brokers share a store and a provider.
func replicas(t *testing.T, n int) []*harness {
	t.Helper()
	store, provider := &brokertest.MemStore{}, brokertest.NewProvider()
	all := make([]*harness, n)
	for i := range all {
		all[i] = newHarnessOn(t, store, provider)
	}
	return all
}

// newHarnessOn returns a harness with this store and this provider.
func newHarnessOn(t *testing.T, store *brokertest.MemStore, provider *brokertest.Provider) *harness {
	t.Helper()
	h := &harness{
		t: t, store: store, provider: provider, events: &eventLog{}, log: &brokertest.Log{}, journal: &brokertest.MemJournal{},
		key: record.Key{Application: "app", Consumer: "customer", Connector: acme},
	}
	provider.ClientSecret = brokertest.ClientSecretCanary
	h.config = &record.Config{
		RefreshTimeout: 20 * time.Second,
		Events:         h.events,
		Logger:         slog.New(slog.NewTextHandler(h.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	h.start()
	for _, def := range []connector.Definition{
		{ID: acme},
		{ID: long, RefreshTokenOptional: true},
		{ID: cc, GrantType: connector.ClientCredentials},
		{ID: keyed, AuthType: connector.APIKey},
	} {
		h.connect(def)
	}
	t.Cleanup(h.stop)
	return h
}

// start makes another broker on the harness's store and journal, as a new process would.
// It leaves the one before alone.
func (h *harness) start() { h.startOn(h.store, h.journal) }

// startOn starts a broker on wrappers of the harness's store or journal.
func (h *harness) startOn(store record.Store, journal record.Journal) {
	h.startWith(broker.Options{
		Open:      func(context.Context) (record.Store, error) { return store, nil },
		Transport: h.transport(),
		Journal:   journal,
	})
}

// transport leads all token requests to the harness's provider.
func (h *harness) transport() func(bool) http.RoundTripper {
	return func(bool) http.RoundTripper { return h.provider }
}

func (h *harness) startWith(opts broker.Options) {
	h.Broker = broker.New(opts)
	h.Configure(h.config)
}

// restart closes the broker and starts another one.
func (h *harness) restart(opts broker.Options) {
	h.t.Helper()
	if err := h.Close(h.t.Context()); err != nil {
		h.t.Fatalf("closing the broker: %v", err)
	}
	h.startWith(opts)
}

// configure hands the broker a changed copy of its configuration: a [record.Config] must
// not change once it was handed over.
func (h *harness) configure(change func(*record.Config)) {
	cfg := *h.config
	cfg.Connectors = make(map[connector.ID]*record.Connector, len(h.config.Connectors))
	for id, conn := range h.config.Connectors {
		copied := *conn
		cfg.Connectors[id] = &copied
	}
	change(&cfg)
	h.config = &cfg
	h.Configure(h.config)
}

// configureConnector hands the broker a configuration with a changed connector.
func (h *harness) configureConnector(id connector.ID, change func(*record.Connector)) {
	h.configure(func(cfg *record.Config) { change(cfg.Connectors[id]) })
}

// disconnect removes a connector's block from the configuration.
func (h *harness) disconnect(id connector.ID) {
	h.configure(func(cfg *record.Config) { delete(cfg.Connectors, id) })
}

// connect configures a connector, at the harness's provider unless def says otherwise.
func (h *harness) connect(def connector.Definition) {
	h.t.Helper()
	def.Name = "Acme"
	if def.BaseURL == "" {
		def.BaseURL = "https://api.acme.test"
	}
	if def.AuthType == "" {
		def.AuthType = connector.OAuth2
	}
	if def.AuthType == connector.OAuth2 {
		if def.TokenURL == "" {
			def.TokenURL = "https://auth.acme.test/token"
		}
		if def.AuthStyle == "" {
			def.AuthStyle = connector.AuthHeader
		}
	}
	def = def.WithDefaults()
	if err := def.Validate(); err != nil {
		h.t.Fatal(err)
	}
	conn := &record.Connector{Definition: def, Client: record.Client{ID: "client", Secret: secret.New(brokertest.ClientSecretCanary)}}
	h.configure(func(cfg *record.Config) { cfg.Connectors[def.ID] = conn })
}

// connectTenants configures cc so that its token requests name the tenant of the settings.
func (h *harness) connectTenants() {
	h.t.Helper()
	h.connect(connector.Definition{
		ID: cc, GrantType: connector.ClientCredentials, TokenParams: map[string]string{"audience": "{tenant}"},
		Settings: []connector.Setting{{Name: "tenant", Required: true}},
	})
}

// connectOwner configures the password grant and imports a connection of the user ann.
func (h *harness) connectOwner(password string) record.Key {
	h.t.Helper()
	h.connect(connector.Definition{ID: owner, GrantType: connector.Password})
	key := h.at(owner)
	h.mustImportBody(key, `{"settings":{"username":"ann","password":"`+password+`"}}`)
	return key
}

func (h *harness) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := h.Close(ctx); err != nil {
		h.t.Errorf("closing the broker: %v", err)
	}
	brokertest.NoCanary(h.t, "the log", []byte(h.log.String()))
}

// at returns the key of the harness's customer's connection to another connector.
func (h *harness) at(id connector.ID) record.Key {
	key := h.key
	key.Connector = id
	return key
}

// of returns the key of another customer's connection to acme.
func (h *harness) of(customer string) record.Key {
	key := h.key
	key.Consumer = customer
	return key
}

// customers returns the keys of connections of these customers to a connector.
func (h *harness) customers(id connector.ID, names ...string) []record.Key {
	keys := make([]record.Key, len(names))
	for i, name := range names {
		keys[i] = h.at(id)
		keys[i].Consumer = name
	}
	return keys
}

// importBody imports a JSON body.
func (h *harness) importBody(key record.Key, body string) (*record.Connection, record.ImportOutcome, error) {
	h.t.Helper()
	imp, err := apideck.ParseImport([]byte(body))
	if err != nil {
		return nil, "", err
	}
	done, err := h.Import(h.t.Context(), key, imp)
	if err != nil {
		return nil, "", err
	}
	return done.Connection, done.Outcome, nil
}

// mustImportBody imports a JSON body and returns the outcome.
func (h *harness) mustImportBody(key record.Key, body string) record.ImportOutcome {
	h.t.Helper()
	_, outcome, err := h.importBody(key, body)
	if err != nil {
		h.t.Fatalf("import of %s: %v", body, err)
	}
	return outcome
}

// mustImport imports tokens into the connection to acme.
func (h *harness) mustImport(access, refresh string, more ...string) record.ImportOutcome {
	h.t.Helper()
	members := append([]string{`"access_token":` + strconv.Quote(access), `"refresh_token":` + strconv.Quote(refresh)}, more...)
	_, outcome, err := h.importBody(h.key, `{"credentials":{`+strings.Join(members, ",")+`}}`)
	if err != nil {
		h.t.Fatalf("import: %v", err)
	}
	return outcome
}

// issued returns members of an import for a token of an hour, issued so long ago.
func issued(ago time.Duration) string {
	return `"issued_at":"` + time.Now().Add(-ago).UTC().Format(time.RFC3339) + `","expires_in":3600`
}

// record returns the stored record.
func (h *harness) record(key record.Key) *record.Record {
	h.t.Helper()
	rec, _, err := h.store.Load(h.t.Context(), key)
	if err != nil {
		h.t.Fatal(err)
	}
	return rec
}

// restore replaces the stored record, as a backup or another replica does.
func (h *harness) restore(rec *record.Record) {
	h.t.Helper()
	_, rev, err := h.store.Load(h.t.Context(), rec.Key)
	if err != nil {
		h.t.Fatal(err)
	}
	if _, err := h.store.Save(h.t.Context(), rec, rev); err != nil {
		h.t.Fatal(err)
	}
}

// token returns the connection's access token.
func (h *harness) token(key record.Key) string {
	h.t.Helper()
	tok, err := h.Source(key).Token(h.t.Context())
	if err != nil {
		h.t.Fatalf("token of %s: %v", key, err)
	}
	return tok.AccessToken.Reveal()
}

// redeemed returns the refresh tokens that were sent to the provider.
func (h *harness) redeemed() []string {
	var sent []string
	for _, form := range h.provider.Requests() {
		sent = append(sent, form.Get("refresh_token"))
	}
	return sent
}

// virtually runs a test in virtual time.
func virtually(t *testing.T, test func(t *testing.T, h *harness)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, newHarness(t)) })
}

// holdAnswers grants a refresh token, and holds the provider's answers back until the
// channel is closed.
func (h *harness) holdAnswers(refresh string) (release chan struct{}) {
	release = make(chan struct{})
	h.provider.Grant(refresh)
	h.provider.Deliver = func(int) error { <-release; return nil }
	return release
}
