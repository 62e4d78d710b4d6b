package tokenbroker

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/caddymodule/internal/caddytest"
)

func TestConnectorFilesAddToTheCatalogueAndReplaceIt(t *testing.T) {
	hubspot := strings.NewReplacer("crm/acme", "crm/hubspot", "Acme", "Our HubSpot").Replace(caddytest.AcmeFile)
	dir := caddytest.ConnectorFiles(t, map[string]string{
		"acme.json": caddytest.AcmeFile, "hubspot.json": hubspot, "README.md": "not one", ".hidden.json": "not one",
	})
	app := &App{Catalogs: []string{dir}}
	known, err := app.KnownConnectors()
	if err != nil {
		t.Fatal(err)
	}
	names := make(map[string]string)
	for id, k := range known {
		names[id.String()] = k.Name
	}
	if names["crm/acme"] != "Acme" || names["crm/hubspot"] != "Our HubSpot" || names["accounting/xero"] != "Xero" {
		t.Errorf("got %v", names)
	}

	// Only the configuration makes a connector usable, not its file.
	t.Setenv("CONNECTORS", dir)
	options, _ := caddytest.Globals(t, caddytest.BrokerLines(t, filepath.Join(t.TempDir(), "store"), "catalog {env.CONNECTORS}", "connector crm/acme {\nclient_id x\n}"))
	if err := caddytest.Validate(t, options+caddytest.APISite); err != nil {
		t.Error(err)
	}
	options, _ = caddytest.Globals(t, caddytest.BrokerLines(t, filepath.Join(t.TempDir(), "store"), "connector crm/acme {\nclient_id x\n}"))
	if err := caddytest.Validate(t, options+caddytest.APISite); err == nil || !strings.Contains(err.Error(), "connector crm/acme: auth_type: is required") {
		t.Errorf("without the catalogue: got %v", err)
	}
}

func TestCatalogueErrorsNameTheFileAndTheField(t *testing.T) {
	broken := func(before, after string) map[string]string {
		return map[string]string{"acme.json": strings.Replace(caddytest.AcmeFile, before, after, 1)}
	}
	for name, test := range map[string]struct {
		dirs []string
		want string
	}{
		"no directory":   {[]string{"/nowhere/connectors"}, "catalog: open /nowhere/connectors"},
		"no value":       {[]string{"{env.NOT_SET_AT_ALL}"}, "catalog: {env.NOT_SET_AT_ALL} has no value"},
		"no JSON":        {[]string{caddytest.ConnectorFiles(t, broken(`"id"`, `id`))}, "acme.json: line 2: is not valid JSON"},
		"empty":          {[]string{caddytest.ConnectorFiles(t, map[string]string{"acme.json": ""})}, "acme.json: is not valid JSON: it ends too early"},
		"unknown member": {[]string{caddytest.ConnectorFiles(t, broken(`"token_url"`, `"token_uri"`))}, `acme.json: unknown field "token_uri"`},
		"wrong type":     {[]string{caddytest.ConnectorFiles(t, broken(`["files.acme.test"]`, `"files.acme.test"`))}, "acme.json: line 7: allow_hosts: must not be a JSON string"},
		"twice":          {[]string{caddytest.ConnectorFiles(t, broken(`"auth_type"`, `"name": "B", "auth_type"`))}, "acme.json: name: appears twice"},
		"rule":           {[]string{caddytest.ConnectorFiles(t, broken(`https://{tenant}.acme.test/v1`, `http://acme.test`))}, "acme.json: connector crm/acme: base_url: must begin with https://"},
		"no password":    {[]string{caddytest.ConnectorFiles(t, broken(`, "password": ""`, ``))}, "acme.json: inject: basic needs password_setting"},
		"same id":        {[]string{caddytest.ConnectorFiles(t, map[string]string{"a.json": caddytest.AcmeFile, "b.json": caddytest.AcmeFile})}, "b.json: id: crm/acme is also in "},
		"same id in two": {[]string{caddytest.ConnectorFiles(t, map[string]string{"a.json": caddytest.AcmeFile}), caddytest.ConnectorFiles(t, map[string]string{"b.json": caddytest.AcmeFile})}, "b.json: id: crm/acme is also in "},
		"too long":       {[]string{caddytest.ConnectorFiles(t, map[string]string{"a.json": strings.Repeat(" ", 1<<20+1)})}, "a.json: is longer than"},
	} {
		options, _ := caddytest.Globals(t, caddytest.BrokerLines(t, filepath.Join(t.TempDir(), "store"), "catalog "+strings.Join(test.dirs, " ")))
		if err := caddytest.Validate(t, options+caddytest.APISite); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %q", name, err, test.want)
		}
	}
}

func TestAMistypedConnectorIsToldWhatWasMeant(t *testing.T) {
	for name, want := range map[string]string{
		"crm/hubspt": "connector crm/hubspt is not in the catalogue: did you mean crm/hubspot?",
		"crm/acme":   "base_url: is required",
	} {
		options, _ := caddytest.Globals(t, caddytest.BrokerLines(t, filepath.Join(t.TempDir(), "store"), "connector "+name+" {\n}"))
		err := caddytest.Validate(t, options+caddytest.APISite)
		if err == nil || !strings.Contains(err.Error(), want) || (name == "crm/acme") == strings.Contains(err.Error(), "did you mean") {
			t.Errorf("%s: got %v, want %q", name, err, want)
		}
	}
}
