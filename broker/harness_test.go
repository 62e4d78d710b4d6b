package broker_test

import (
	"context"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
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
)

// A harness is a broker with a provider, a store and a log of its own.
type harness struct {
	*broker.Broker
	t        *testing.T
	store    *brokertest.MemStore
	provider *brokertest.Provider
	journal  *brokertest.MemJournal
	events   *eventLog
	log      *brokertest.Log
	config   *broker.Config
	key      record.Key // of a connection to acme
}

// newHarness returns a harness; call it in a synctest bubble if time is to be virtual.
func newHarness(t *testing.T) *harness {
	t.Helper()
	return newHarnessOn(t, &brokertest.MemStore{}, brokertest.NewProvider())
}

// newHarnessOn is newHarness for a broker that shares a store with others.
func newHarnessOn(t *testing.T, store *brokertest.MemStore, provider *brokertest.Provider) *harness {
	t.Helper()
	h := &harness{
		t: t, store: store, provider: provider, events: &eventLog{}, log: &brokertest.Log{}, journal: &brokertest.MemJournal{},
		key: record.Key{Application: "app", Consumer: "customer", Connector: acme},
	}
	provider.ClientSecret = brokertest.ClientSecretCanary
	h.start()
	h.config = &broker.Config{
		Connectors:     make(map[connector.ID]*record.Connector),
		RefreshTimeout: 20 * time.Second,
		Events:         h.events,
		Logger:         slog.New(slog.NewTextHandler(h.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	for _, def := range []connector.Definition{
		{ID: acme},
		{ID: long, RefreshTokenOptional: true},
		{ID: cc, GrantType: connector.ClientCredentials},
		{ID: keyed, AuthType: connector.APIKey},
	} {
		h.connect(def)
	}
	h.Configure(h.config)
	t.Cleanup(h.stop)
	return h
}

// start begins a process of its own, as it were, on the harness's store and journal.
func (h *harness) start() { h.startOn(h.store, h.journal) }

// startOn is start on something that stands before the harness's store or journal.
func (h *harness) startOn(store record.Store, journal record.Journal) {
	h.Broker = broker.New(broker.Options{
		Open:      func(context.Context) (record.Store, error) { return store, nil },
		Transport: func(bool) http.RoundTripper { return h.provider },
		Journal:   journal,
	})
	if h.config != nil {
		h.Configure(h.config)
	}
}

// connect adds a connector, at the harness's provider unless it says otherwise.
func (h *harness) connect(def connector.Definition) *record.Connector {
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
	h.config.Connectors[def.ID] = conn
	return conn
}

func (h *harness) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := h.Close(ctx); err != nil {
		h.t.Errorf("closing the broker: %v", err)
	}
	brokertest.NoCanary(h.t, "the log", []byte(h.log.String()))
}

// at returns the key of the connection to another connector.
func (h *harness) at(id connector.ID) record.Key {
	key := h.key
	key.Connector = id
	return key
}

// importBody imports a JSON body for key.
func (h *harness) importBody(key record.Key, body string) (*record.Connection, record.ImportOutcome, error) {
	h.t.Helper()
	imp, err := apideck.ParseImport([]byte(body))
	if err != nil {
		return nil, "", err
	}
	return h.Import(h.t.Context(), key, imp)
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

// record returns what is stored.
func (h *harness) record(key record.Key) *record.Record {
	h.t.Helper()
	rec, _, err := h.store.Load(h.t.Context(), key)
	if err != nil {
		h.t.Fatal(err)
	}
	return rec
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

// holdAnswers makes the provider keep its answers to a customer's refresh token, until the
// channel is closed.
func (h *harness) holdAnswers(refresh string) (release chan struct{}) {
	release = make(chan struct{})
	h.provider.Grant(refresh)
	h.provider.Deliver = func(int) error { <-release; return nil }
	return release
}

// An eventLog keeps what was emitted.
type eventLog struct {
	mu     sync.Mutex // guards events
	events []record.Event
}

func (l *eventLog) Emit(_ context.Context, e record.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, e)
}

func (l *eventLog) types() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var types []string
	for _, e := range l.events {
		types = append(types, strings.TrimPrefix(string(e.Type), "vault.connection.token_refresh."))
	}
	return strings.Join(types, " ")
}
