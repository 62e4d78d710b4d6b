package record_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

var (
	now  = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	acme = record.Key{Application: "app", Consumer: "jane", Connector: connector.ID{UnifiedAPI: "crm", ServiceID: "acme"}}
)

// A connection is a record that changes as the engine and a store would change it: a change
// that fails leaves it as it was.
type connection struct {
	*record.Record
	t    *testing.T
	conn *record.Connector
}

// connect returns a connection to acme that does not exist yet. What def leaves open is that of
// an OAuth connector.
func connect(t *testing.T, def connector.Definition) *connection {
	t.Helper()
	def.ID = acme.Connector
	if def.BaseURL == "" {
		def.BaseURL = "https://api.acme.test"
	}
	if def.AuthType == "" {
		def.AuthType = connector.OAuth2
	}
	if def.AuthType == connector.OAuth2 {
		def.AuthStyle = connector.AuthHeader
		if def.TokenURL == "" {
			def.TokenURL = "https://auth.acme.test/token"
		}
	}
	def = def.WithDefaults()
	if err := def.Validate(); err != nil {
		t.Fatal(err)
	}
	return &connection{
		Record: record.New(acme, nil, now), t: t,
		conn: &record.Connector{Definition: def, Client: record.Client{ID: "client", Secret: secret.New("secret")}},
	}
}

// try imports into the connection.
func (c *connection) try(imp *record.Import) (record.ImportOutcome, error) {
	rec := c.Clone()
	outcome, err := rec.Import(c.conn, imp, now)
	if err == nil {
		c.Record = rec
	}
	return outcome, err
}

// mustImport imports credentials. Nil stands for an import without any.
func (c *connection) mustImport(credentials *record.ImportCredentials) record.ImportOutcome {
	c.t.Helper()
	return c.must(&record.Import{Credentials: credentials})
}

// must imports into the connection.
func (c *connection) must(imp *record.Import) record.ImportOutcome {
	c.t.Helper()
	outcome, err := c.try(imp)
	if err != nil {
		c.t.Fatalf("import: %v", err)
	}
	return outcome
}

// update applies an update to the connection.
func (c *connection) update(up *record.Update) error {
	rec := c.Clone()
	err := rec.Apply(c.conn, up)
	if err == nil {
		c.Record = rec
	}
	return err
}

// tokens returns credentials that were issued so long ago, for an hour.
func tokens(access, refresh string, ago time.Duration) *record.ImportCredentials {
	c := undated(access, refresh)
	c.IssuedAt, c.ExpiresIn = now.Add(-ago), new(time.Hour)
	return c
}

// undated returns credentials of unknown age and lifetime.
func undated(access, refresh string) *record.ImportCredentials {
	return &record.ImportCredentials{AccessToken: secret.New(access), RefreshToken: secret.New(refresh)}
}

// object decodes a JSON object as the bodies of requests are.
func object(t *testing.T, text string) map[string]any {
	t.Helper()
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	var o map[string]any
	if err := dec.Decode(&o); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return o
}

// wantInputError checks that err is about the field and that its fix contains fix; without a
// field, that there is no error.
func wantInputError(t *testing.T, err error, field, fix string) {
	t.Helper()
	if field == "" {
		if err != nil {
			t.Error(err)
		}
		return
	}
	input, ok := errors.AsType[*record.InputError](err)
	if !ok || input.Field != field || input.Kind != record.InputInvalid || !strings.Contains(input.Fix, fix) {
		t.Errorf("got %v, want an InputError for %s: %s", err, field, fix)
	}
}

func TestNewRecordCountsOnFromItsTombstone(t *testing.T) {
	t.Parallel()
	tombstone := &record.Record{Key: acme, Generation: 7, Deleted: now}
	got := record.New(acme, tombstone, now)
	if got.Generation != 7 || got.IsTombstone() || !got.Enabled || !got.CreatedAt.Equal(now) {
		t.Errorf("got generation %d, deleted %v, enabled %v, created at %v", got.Generation, got.Deleted, got.Enabled, got.CreatedAt)
	}
}

func TestRecordShowsOnlyItsKey(t *testing.T) {
	t.Parallel()
	c := connect(t, connector.Definition{})
	c.must(&record.Import{
		Credentials: tokens(brokertest.AccessCanary, brokertest.RefreshCanary, 0),
		Settings:    map[string]any{"note": brokertest.SettingCanary},
	})
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		if got, want := fmt.Sprintf(verb, c.Record), "record of app/jane/crm/acme"; got != want {
			t.Errorf("%s: got %s, want %s", verb, got, want)
		}
	}
	if got, err := json.Marshal(c.Record); err != nil || string(got) != `"record of app/jane/crm/acme"` {
		t.Errorf("as JSON: got %s, %v", got, err)
	}
	if got := c.LogValue().String(); got != "app/jane/crm/acme" {
		t.Errorf("in a log: got %s", got)
	}
}

func TestKeyIsUnambiguousInLogs(t *testing.T) {
	t.Parallel()
	for consumer, want := range map[string]string{
		"jane":       "app/jane/crm/acme",
		"jörg@x.de":  "app/jörg@x.de/crm/acme",
		"a/b":        `app/"a/b"/crm/acme`,
		"a b":        `app/"a b"/crm/acme`,
		"x\n":        `app/"x\n"/crm/acme`,
		`"`:          `app/"\""/crm/acme`,
		"\u202ejane": `app/"\u202ejane"/crm/acme`,
	} {
		key := record.Key{Application: "app", Consumer: consumer, Connector: acme.Connector}
		if got := key.String(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestKeyNamesTheHeaderAtFault(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 256)
	for _, test := range []struct {
		application, consumer string
		kind                  record.InputKind
		field                 string // empty: valid
	}{
		{"app", "jane", 0, ""},
		{"app", "jörg", 0, ""},
		{"app", long[:255], 0, ""},
		{"", "jane", record.InputHeaderMissing, "x-apideck-app-id"},
		{"app", "", record.InputHeaderMissing, "x-apideck-consumer-id"},
		{long, "jane", record.InputHeader, "x-apideck-app-id"},
		{"app", long, record.InputHeader, "x-apideck-consumer-id"},
		{"app", "a\nb", record.InputHeader, "x-apideck-consumer-id"},
		{"app", "a\x00", record.InputHeader, "x-apideck-consumer-id"},
		{"app", "\xff", record.InputHeader, "x-apideck-consumer-id"},
	} {
		key := record.Key{Application: test.application, Consumer: test.consumer, Connector: acme.Connector}
		err := key.Validate()
		input, bad := errors.AsType[*record.InputError](err)
		if test.field == "" {
			if err != nil {
				t.Errorf("%v: %v", key, err)
			}
		} else if !bad || input.Kind != test.kind || input.Field != test.field {
			t.Errorf("%v: got %v, want kind %d for %s", key, err, test.kind, test.field)
		}
	}
	for _, id := range []connector.ID{{}, {UnifiedAPI: "crm"}, {UnifiedAPI: "crm", ServiceID: "a/b"}} {
		key := acme
		key.Connector = id
		if err := key.Validate(); !errors.Is(err, record.ErrConnectorNotFound) {
			t.Errorf("%v: got %v, want ErrConnectorNotFound", id, err)
		}
	}
}

func numbered(prefix string, i int) string { return fmt.Sprint(prefix, i) }
