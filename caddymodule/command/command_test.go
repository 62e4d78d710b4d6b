package command

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/tokenbroker/caddy-token-broker/broker"
	"github.com/tokenbroker/caddy-token-broker/broker/apideck"
	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/internal/caddytest"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/tokenbroker"
)

// connectors runs the command.
func connectors(c connectorsCommand, args ...string) (string, error) {
	var out bytes.Buffer
	c.out = &out
	err := c.run(args)
	return out.String(), err
}

func TestConnectorsListsWhatIsKnown(t *testing.T) {
	t.Parallel()
	dir := caddytest.ConnectorFiles(t, map[string]string{"acme.json": caddytest.AcmeFile})
	config := filepath.Join(dir, "Caddyfile")
	if err := os.WriteFile(config, []byte("{\ntoken_broker {\ncatalog "+dir+"\nconnector crm/hubspot {\nclient_id {env.NOT_SET}\n}\nconnector crm/acme\n"+
		"connector hris/own {\nauth_type apiKey\nbase_url https://own.test\n}\n}\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	acme := "crm/acme Acme oauth2 password " + filepath.Join(dir, "acme.json")
	for name, test := range map[string]struct {
		command connectorsCommand
		want    []string
		not     string
	}{
		"built in":   {connectorsCommand{}, []string{"ID NAME AUTH GRANT FROM SOURCE\n", "crm/hubspot HubSpot oauth2 authorization_code built in https://", " Stripe apiKey - built in https://"}, "crm/acme"},
		"directory":  {connectorsCommand{dirs: []string{dir}}, []string{acme + " https://docs.acme.test/oauth\n", "crm/hubspot"}, "hris/own"},
		"configured": {connectorsCommand{config: config, adapter: "caddyfile"}, []string{acme + ", configuration https", "built in, configuration https", "hris/own Own apiKey - configuration -\n"}, "nobody"},
		"both":       {connectorsCommand{config: config, adapter: "caddyfile", dirs: []string{dir}}, []string{acme}, "nobody"},
	} {
		out, err := connectors(test.command)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		var lines strings.Builder // columns separated by single spaces
		for line := range strings.Lines(out) {
			lines.WriteString(strings.Join(strings.Fields(line), " ") + "\n")
		}
		for _, want := range test.want {
			if !strings.Contains(lines.String(), want) {
				t.Errorf("%s: got\n%s\nwithout %q", name, lines.String(), want)
			}
		}
		if strings.Contains(out, test.not) {
			t.Errorf("%s: got\n%s\nwith %q", name, out, test.not)
		}
	}
}

func TestConnectorsShowsWhatAnImportMustSend(t *testing.T) {
	t.Parallel()
	dir := caddytest.ConnectorFiles(t, map[string]string{"acme.json": caddytest.AcmeFile})
	got, err := connectors(connectorsCommand{dirs: []string{dir}}, "crm/acme")
	if err != nil {
		t.Fatal(err)
	}
	const want = `crm/acme: Acme

  website       https://acme.test
  auth_type     oauth2
  grant_type    password
  token_url     https://{tenant}.acme.test/token
  auth_style    params
  token_body    json
  token_params  audience {tenant}
  rotation      window 30m0s
  keep_alive    720h0m0s
  base_url      https://{tenant}.acme.test/v1
  hosts         {tenant}.acme.test files.acme.test
  inject        cookie session=<access token>
  inject        header Authorization: Basic, user name {tenant}/token, password (empty)
  from          DIR/acme.json
  source        https://docs.acme.test/oauth

  How refreshing works.

Settings of a connection:
  tenant         Tenant         required
  client_id      Client ID
  client_secret  Client secret  sensitive
  username       Username       required
  password       Password       required, sensitive

In the configuration:
  connector crm/acme {
    client_id {env.ACME_CLIENT_ID}
    client_secret {env.ACME_CLIENT_SECRET}
  }

To import a connection:
  POST /vault/connections/crm/acme/import
  {
    "settings": {
      "password": "your-password",
      "tenant": "your-tenant",
      "username": "your-username"
    }
  }

No token is imported: the first call fetches one.

A connection that has the setting client_id uses that OAuth client instead of the
configuration's.
`
	if got = strings.ReplaceAll(got, dir, "DIR"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestWhatConnectorsShowsCanBeImported imports the example of every known connector.
func TestWhatConnectorsShowsCanBeImported(t *testing.T) {
	t.Parallel()
	app := &tokenbroker.App{Catalogs: []string{caddytest.ConnectorFiles(t, map[string]string{"acme.json": caddytest.AcmeFile})}}
	known, err := app.KnownConnectors()
	if err != nil {
		t.Fatal(err)
	}
	config := &record.Config{Connectors: make(map[connector.ID]*record.Connector)}
	for id, k := range known {
		config.Connectors[id] = &record.Connector{Definition: k.Definition}
	}
	b := broker.New(broker.Options{Open: func(context.Context) (record.Store, error) { return &brokertest.MemStore{}, nil }})
	b.Configure(config)
	t.Cleanup(func() { _ = b.Close(context.Background()) })
	for id, k := range known {
		imp, err := apideck.ParseImport(exampleImport(&k.Definition))
		if err != nil {
			t.Errorf("%s: %v", id, err)
			continue
		}
		// Not expired, so that nothing is refreshed.
		if c := imp.Credentials; c != nil {
			c.IssuedAt, c.ExpiresIn = c.IssuedAt.AddDate(50, 0, 0), nil
			c.ExpiresAt = c.IssuedAt.AddDate(50, 0, 0)
		}
		done, err := b.Import(t.Context(), record.Key{Application: "app", Consumer: "c", Connector: id}, imp)
		if err != nil {
			t.Errorf("%s: import of %s: %v", id, exampleImport(&k.Definition), err)
			continue
		}
		if view := done.Connection; view.State != record.StateCallable || view.Health != record.HealthOK {
			t.Errorf("%s: got %+v, want a callable connection from %s", id, view, exampleImport(&k.Definition))
		}
	}
}

func TestConnectorsWithAClientForEachConnectionNeedNone(t *testing.T) {
	t.Parallel()
	own := strings.Replace(caddytest.AcmeFile, `"name": "client_id"`, `"name": "client_id", "required": true`, 1)
	got, err := connectors(connectorsCommand{dirs: []string{caddytest.ConnectorFiles(t, map[string]string{"acme.json": own})}}, "crm/acme")
	if err != nil || strings.Contains(got, "{env.") || !strings.Contains(got, `"client_id": "your-client-id"`) || !strings.Contains(got, "Each connection has its own OAuth client") {
		t.Errorf("got %v\n%s", err, got)
	}
}

func TestConnectorsSuggestsSimilarNames(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"crm/hubspt":           "did you mean crm/hubspot?",
		"hubspot":              "did you mean crm/hubspot?",
		"CRM/HubSpot":          "did you mean crm/hubspot?",
		"sms":                  "did you mean sms/plivo, sms/twilio?",
		"ats/hubspot":          "did you mean crm/hubspot?",
		"nope/x":               "there is no connector nope/x; `connectors` lists them",
		"crm/nobody-knows-it":  "there is no connector crm/nobody-knows-it; `connectors` lists them",
		"nobody":               "a connector is named <unified_api>/<service_id>",
		"":                     "a connector is named <unified_api>/<service_id>",
		strings.Repeat("x", 9): "a connector is named",
	} {
		if out, err := connectors(connectorsCommand{}, name); err == nil || out != "" || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %q, %v, want %q", name, out, err, want)
		}
	}
	if _, err := connectors(connectorsCommand{}, "crm/hubspot", "crm/pipedrive"); err == nil {
		t.Error("two names are accepted")
	}
	if _, err := connectors(connectorsCommand{config: "/nowhere/Caddyfile"}); err == nil {
		t.Error("a missing configuration is accepted")
	}
}

func TestConnectorsIsASubcommand(t *testing.T) {
	t.Parallel()
	if _, ok := caddycmd.Commands()["connectors"]; !ok {
		t.Error("the subcommand connectors is not registered")
	}
}
